package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/transport"
	"poip/internal/wire"
)

// BenchmarkUplink is records in memory to a relay over TLS that only drops
// them and acknowledges.
func BenchmarkUplink(b *testing.B) {
	for _, length := range []int{64, 1400} {
		b.Run(fmt.Sprintf("%dB", length), func(b *testing.B) {
			q := newQueue(newMemory(64<<20), OverflowBlock)
			ep := q.begin(wire.Hello{Version: 1, Snaplen: 1})
			u := newUplink(q, nil, slog.New(slog.DiscardHandler))
			ca := poiptest.NewCA(b)
			ep1, stop := dropAll(b, ca)
			defer stop()
			dialer := &transport.Dialer{TLS: ca.AgentTLS("s")}
			u.open, u.endpoints = dialer.Open, Relays{ep1}
			var running sync.WaitGroup
			running.Go(func() { u.run(context.Background()) })

			sink := newBatcher(q, ep, nil)
			data := make([]byte, length)
			b.SetBytes(int64(length + pcap.RecordHeaderLen))
			b.ReportAllocs()
			for i := range b.N {
				sink.Packet(1700000000, uint32(i&0xfffff), uint32(length), data)
			}
			sink.finish()
			running.Wait()
		})
	}
}

func dropAll(b *testing.B, ca *poiptest.CA) (transport.Endpoint, func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		transport.ServeTLS(ctx, ln, ca.IntakeTLS(), transport.ServeOptions{Log: slog.New(slog.DiscardHandler)}, drop)
	})
	return transport.Endpoint{Scheme: "tls", Host: "127.0.0.1", Port: uint16(ln.Addr().(*net.TCPAddr).Port)}, func() {
		cancel()
		serving.Wait()
	}
}

// drop takes a stream and forgets it.
func drop(_ context.Context, conn transport.Conn) {
	r := bufio.NewReaderSize(conn, 256<<10)
	var head [wire.FrameHeaderLen]byte
	var header [wire.BatchHeaderLen]byte
	var out []byte
	var next, acked wire.PacketNumber
	say := func(frame []byte) {
		conn.Write(frame)
		conn.Flush()
	}
	for {
		h, err := wire.ReadHeader(r, &head)
		if err != nil {
			return
		}
		out = out[:0]
		switch h.Type {
		case wire.TypeHello:
			say(wire.AppendHelloAck(out, wire.HelloAck{Version: 1, Window: 16 << 20, MaxBatch: wire.MaxBatchLen, Idle: 15000}))
		case wire.TypeBatch:
			io.ReadFull(r, header[:])
			next = wire.ParseBatchHeader(header[:]).Next()
			h.Length -= wire.BatchHeaderLen
			if next-acked > 1000 {
				acked = next
				say(wire.AppendAck(out, wire.Ack{Next: next}))
			}
		case wire.TypeEnd:
			say(wire.AppendAck(out, wire.Ack{Next: next, Ended: true}))
		}
		r.Discard(h.Length)
	}
}
