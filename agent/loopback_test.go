package agent

import (
	"context"
	"net"
	"sync"
	"testing"

	"poip/agent/capture"
	"poip/internal/poiptest"
	"poip/internal/transport"
)

// flushed sends whatever is written.
type flushed struct{ transport.Conn }

func (c flushed) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		err = c.Flush()
	}
	return n, err
}

// loopback serves a fake relay over TLS and QUIC, and lets an agent dial it. What
// the relay has is to be looked at after stop.
func loopback(t *testing.T, relay *fakeRelay) (endpoints map[string]transport.Endpoint, dialer *transport.Dialer, stop func()) {
	ca := poiptest.NewCA(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	handle := func(_ context.Context, conn transport.Conn) { relay.serve(flushed{conn}) }
	serving.Go(func() { transport.ServeTLS(ctx, ln, ca.IntakeTLS(), transport.ServeOptions{}, handle) })
	serving.Go(func() { transport.ServeQUIC(ctx, pc, ca.IntakeTLS(), transport.ServeOptions{}, handle) })
	dialer = &transport.Dialer{TLS: ca.AgentTLS("s")}
	stop = func() {
		dialer.Close()
		cancel()
		serving.Wait()
	}
	t.Cleanup(stop)
	return map[string]transport.Endpoint{
		"tls":  {Scheme: "tls", Host: "127.0.0.1", Port: uint16(ln.Addr().(*net.TCPAddr).Port)},
		"quic": {Scheme: "quic", Host: "127.0.0.1", Port: uint16(pc.LocalAddr().(*net.UDPAddr).Port)},
	}, dialer, stop
}

func TestOverTLSAndQUIC(t *testing.T) {
	for _, network := range []string{"tls", "quic"} {
		t.Run(network, func(t *testing.T) {
			relay := newFakeRelay(t)
			relay.CutAt, relay.Cuts = 20, 3
			endpoints, dialer, stop := loopback(t, relay)
			a := testAgent(t, relay, map[string]capture.Source{
				"file.a": file(3000, 1400), "file.b": file(100, 60000), "file.c": file(0, 0),
			})
			a.config.Relay = Relays{endpoints[network]}
			a.Open, dialer.Resolved = dialer.Open, a.Resolved
			if err := a.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop()
			for name, count := range map[string]int{"s/file.a": 3000, "s/file.b": 100, "s/file.c": 0} {
				s := relay.stream(name)
				if len(s.epochs) != 1 || len(s.epochs[0].ends) != 1 {
					t.Fatalf("%s: %d epochs", name, len(s.epochs))
				}
				checkNumbered(t, s.epochs[0].packets, 0, count)
			}
		})
	}
}
