package agent

import (
	"fmt"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// BenchmarkFraming is what a sensor does for a packet between its capture and
// its connection: records into a batch, the batch through the queue, its CRC,
// its acknowledgment.
func BenchmarkFraming(b *testing.B) {
	for _, c := range []struct {
		length int
		spool  bool // there is one, and it has nothing to do
	}{{64, false}, {1400, false}, {64, true}, {1400, true}} {
		length := c.length
		b.Run(fmt.Sprintf("%dB/spool=%t", length, c.spool), func(b *testing.B) {
			q := newQueue(newMemory(64<<20), OverflowDropOldest)
			if c.spool {
				q.work = make(chan struct{}, 1)
			}
			ep := q.begin(wire.Hello{})
			accept(b, q, 16<<20)
			sink := newBatcher(q, ep, nil)
			data := make([]byte, length)
			b.SetBytes(int64(length + pcap.RecordHeaderLen))
			b.ReportAllocs()
			for i := range b.N {
				sink.Packet(1700000000, uint32(i&0xfffff), uint32(length), data)
				if i&0x3ff == 0x3ff {
					deliverAll(q, ep)
				}
			}
		})
	}
}

func deliverAll(q *queue, ep *epoch) {
	for {
		what, it := q.take(ep)
		if what != sendItem {
			break
		}
		if !it.sealed {
			it.seal()
		}
	}
	if err := q.acknowledge(wire.Ack{Next: ep.sentTo()}); err != nil {
		panic(err)
	}
}
