package transport_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// breaksOff is a client's socket that falls silent after so many datagrams.
type breaksOff struct {
	net.PacketConn
	left int // owned by the goroutine that writes
}

func (b *breaksOff) WriteTo(p []byte, to net.Addr) (int, error) {
	if b.left--; b.left < 0 {
		return len(p), nil
	}
	return b.PacketConn.WriteTo(p, to)
}

// stall begins handshakes of QUIC from one address, and ends none of them: they
// wait for ever for their certificate or, half of them, for what is left of
// their first message. It ends with ctx.
func stall(t *testing.T, ctx context.Context, ep transport.Endpoint, cfg *tls.Config, address string, count int) {
	cfg = cfg.Clone()
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(ep.Port)}
	var all sync.WaitGroup
	for i := range count {
		pc, err := net.ListenPacket("udp", address+":0")
		must(t, err)
		defer pc.Close()
		tr := &quic.Transport{Conn: &breaksOff{pc, 1 << 30}}
		if i%2 == 0 {
			tr.Conn = &breaksOff{pc, 3} // two before the address is verified, and one of two after that
		}
		defer tr.Close()
		all.Go(func() {
			for ctx.Err() == nil {
				if c, err := tr.Dial(ctx, to, cfg, &quic.Config{HandshakeIdleTimeout: time.Minute}); err == nil {
					<-c.Context().Done()
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	all.Wait()
}

// Handshakes over QUIC that stall, whatever they wait for and however often they
// come again, keep no agent out over either network. Fails when a stranger over
// QUIC keeps its place against newcomers.
func TestStalledHandshakesKeepNobodyOut(t *testing.T) {
	var ended time.Time
	t.Cleanup(func() {
		if took := time.Since(ended); took > 1500*time.Millisecond {
			t.Errorf("the relay took %s to end", took)
		}
	})
	ca := poiptest.NewCA(t)
	gate := transport.NewGate(256, 32)
	opts := transport.ServeOptions{Gate: gate, Log: slog.New(slog.DiscardHandler)}
	handle := func(_ context.Context, c transport.Conn) { c.Write([]byte{1}) }
	eps := []transport.Endpoint{relay(t, "quic", ca.IntakeTLS(), opts, handle), relay(t, "tls", ca.IntakeTLS(), opts, handle)}
	cfg := ca.AgentTLS("mallory")
	cfg.ServerName = "127.0.0.1"
	ctx, end := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for i := range 6 {
		flood.Go(func() { stall(t, ctx, eps[0], cfg, fmt.Sprintf("127.0.0.%d", 2+i), 50) })
	}
	time.Sleep(time.Second)
	for round := range 10 {
		ep := eps[round%2]
		begin := time.Now()
		c, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
		if err == nil {
			send(t, c, []byte{1})
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if took := time.Since(begin); err != nil || took > 2*time.Second {
			t.Errorf("round %d: an honest agent over %s waited %s, %v", round, ep.Scheme, took, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	end()
	flood.Wait()
	ended = time.Now()
}
