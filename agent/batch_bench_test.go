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
	for _, length := range []int{64, 1400} {
		b.Run(fmt.Sprintf("%dB", length), func(b *testing.B) {
			q := newQueue(newMemory(64<<20), OverflowDropOldest)
			ep := q.begin(wire.Hello{})
			q.greet(0)
			if err := q.resume(0, 16<<20); err != nil {
				b.Fatal(err)
			}
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
