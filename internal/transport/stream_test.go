package transport_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relay serves handle on loopback until the test ends.
func relay(tb testing.TB, network string, cfg *tls.Config, opts transport.ServeOptions, handle func(context.Context, transport.Conn)) transport.Endpoint {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	ep := transport.Endpoint{Scheme: network, Host: "127.0.0.1"}
	if network == "tls" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(tb, err)
		ep.Port = uint16(ln.Addr().(*net.TCPAddr).Port)
		go func() { served <- transport.ServeTLS(ctx, ln, cfg, opts, handle) }()
		return ep
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(tb, err)
	ep.Port = uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	go func() { served <- transport.ServeQUIC(ctx, pc, cfg, opts, handle) }()
	return ep
}

func dialer(tb testing.TB, cfg *tls.Config) *transport.Dialer {
	d := &transport.Dialer{TLS: cfg}
	tb.Cleanup(func() { d.Close() })
	return d
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

var networks = []string{"tls", "quic"}

func TestEchoAndOrderlyClose(t *testing.T) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			ca := poiptest.NewCA(t)
			ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{}, func(_ context.Context, c transport.Conn) {
				io.Copy(c, c)
			})
			d := dialer(t, ca.AgentTLS("branch-7"))
			c, err := d.Open(t.Context(), ep)
			must(t, err)
			_, err = c.Write([]byte("hello"))
			must(t, err)
			must(t, c.Flush())
			must(t, c.Close())
		})
	}
}
