package transport_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// joining is a relay's TLS for peers without a certificate, and theirs.
func joining(t *testing.T) (relay, stranger *tls.Config) {
	t.Helper()
	ca := poiptest.NewCA(t)
	relay = ca.IntakeTLS()
	relay.NextProtos, relay.ClientAuth, relay.VerifyConnection = []string{transport.ALPNJoin}, tls.NoClientCert, nil
	return relay, &tls.Config{RootCAs: ca.Pool, ServerName: "relay.test", MinVersion: tls.VersionTLS13}
}

func joiner(t *testing.T, cfg *tls.Config) *transport.Dialer {
	t.Helper()
	d := dialer(t, cfg)
	d.Protocol = transport.ALPNJoin
	return d
}

// echo sends the first byte back, and what follows nowhere.
func echo(c transport.Conn) {
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err == nil {
		c.Write(b)
		c.Flush()
	}
	io.Copy(io.Discard, c)
}

// echoed says something and waits for the answer.
func echoed(t *testing.T, c transport.Conn) {
	t.Helper()
	send(t, c, []byte("x"))
	must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err := io.ReadFull(c, make([]byte, 1))
	must(t, err)
}

// Fails without the deadline of server.try, and over QUIC without that of
// AcceptStream: whoever has no certificate could stay for ever.
func TestStrangersAreCutWhenTheirTimeIsUp(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		relays, strangers := joining(t)
		var log journal
		ep := relay(t, network, relays, transport.ServeOptions{Log: log.logger(), Trial: transport.ALPNJoin, TrialTimeout: 200 * time.Millisecond},
			func(_ context.Context, c transport.Conn) { io.Copy(io.Discard, c) })
		for _, speaks := range []bool{true, false} {
			c, err := joiner(t, strangers).Open(t.Context(), ep)
			if err != nil {
				continue // cut already: this machine is busy
			}
			if speaks {
				c.Write([]byte("something, and nothing after it"))
				c.Flush()
			}
			must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
			if _, err := c.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "i/o timeout") {
				t.Errorf("it was not cut: %v", err)
			}
			c.Abort()
		}
		log.waitFor(t, "not done within 200ms")
	})
}

// Fails where a stranger leaves the gate with its handshake (Gate.Leave before
// server.try, leaveQUIC at the accept): one address could have any number.
func TestStrangersKeepTheirPlaces(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		relays, strangers := joining(t)
		var now, most atomic.Int32
		ep := relay(t, network, relays, transport.ServeOptions{Log: slog.New(slog.DiscardHandler), Trial: transport.ALPNJoin, MaxPendingPerAddr: 2},
			func(_ context.Context, c transport.Conn) {
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				io.Copy(io.Discard, c)
				now.Add(-1)
			})
		begin := time.Now()
		for range 8 {
			c, err := joiner(t, strangers).Open(t.Context(), ep)
			if err != nil {
				continue // no place
			}
			c.Write([]byte{1})
			c.Flush()
			defer c.Abort()
		}
		for end := time.Now().Add(20 * time.Second); now.Load() == 0 && most.Load() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		// Later, who has kept silent is on his way out while another comes in.
		if n := most.Load(); n == 0 || n > 2 && time.Since(begin) < time.Second {
			t.Errorf("%d strangers at a time", n)
		}
	})
}

// A stranger over QUIC has one stream.
func TestStrangersHaveOneStream(t *testing.T) {
	relays, strangers := joining(t)
	var handled atomic.Int32
	ep := relay(t, "quic", relays, transport.ServeOptions{Log: slog.New(slog.DiscardHandler), Trial: transport.ALPNJoin},
		func(_ context.Context, c transport.Conn) { handled.Add(1); echo(c) })
	d := joiner(t, strangers)
	first, err := d.Open(t.Context(), ep)
	must(t, err)
	echoed(t, first)
	second, err := d.Open(t.Context(), ep)
	must(t, err)
	send(t, second, []byte("b"))
	must(t, second.SetReadDeadline(time.Now().Add(300*time.Millisecond))) // nothing comes, however long we wait
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("a second stream was handled")
	}
	first.Close()
	second.Abort()
	if n := handled.Load(); n != 1 {
		t.Errorf("%d streams were handled", n)
	}
}

// Whoever does not name the protocol of strangers is none.
func TestPeersAreNotOnTrial(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{Trial: transport.ALPNJoin, TrialTimeout: time.Nanosecond},
			func(_ context.Context, c transport.Conn) { echo(c) })
		c, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
		must(t, err)
		echoed(t, c)
		must(t, c.Close())
	})
}
