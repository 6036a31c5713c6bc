package transport_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// mute is a client's socket that hears so many datagrams and no more, and
// counts what it would have heard.
type mute struct {
	net.PacketConn
	hears       int // owned by the goroutine that reads
	sent, heard atomic.Int64
}

func (m *mute) WriteTo(p []byte, to net.Addr) (int, error) {
	m.sent.Add(int64(len(p)))
	return m.PacketConn.WriteTo(p, to)
}

func (m *mute) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := m.PacketConn.ReadFrom(p)
		m.heard.Add(int64(n))
		if err != nil || m.hears > 0 {
			m.hears--
			return n, from, err
		}
	}
}

func dialOver(t *testing.T, m *mute, ep transport.Endpoint, cfg *tls.Config, patience time.Duration) error {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer pc.Close()
	m.PacketConn = pc
	tr := &quic.Transport{Conn: m}
	defer tr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(ep.Port)}
	c, err := tr.Dial(ctx, to, cfg, nil)
	if err == nil {
		c.CloseWithError(0, "")
	}
	return err
}

// An address that somebody has forged gets less than was sent in its name.
func TestQUICAmplifiesNothing(t *testing.T) {
	ca := poiptest.NewCA(t)
	ep := relay(t, "quic", ca.IntakeTLS(), transport.ServeOptions{}, nil)
	m := &mute{}
	if err := dialOver(t, m, ep, ca.AgentTLS("branch-7"), 700*time.Millisecond); err == nil {
		t.Error("a deaf client got in")
	}
	if sent, heard := m.sent.Load(), m.heard.Load(); heard == 0 || heard > sent/2 {
		t.Errorf("%d bytes in, %d out", sent, heard)
	}
}

// A peer that is trusted may not hoard connections that it makes no use of, as
// long as it keeps them alive. Fails without the timer in serveQUIC.
func TestConnectionsWithoutStreamsEnd(t *testing.T) {
	ca := poiptest.NewCA(t)
	ep := relay(t, "quic", ca.IntakeTLS(), transport.ServeOptions{StreamTimeout: 100 * time.Millisecond}, nil)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer pc.Close()
	tr := &quic.Transport{Conn: pc}
	defer tr.Close()
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(ep.Port)}
	conn, err := tr.Dial(t.Context(), to, ca.AgentTLS("branch-7"), &quic.Config{KeepAlivePeriod: time.Second})
	must(t, err)
	select {
	case <-conn.Context().Done():
		if cause := context.Cause(conn.Context()); !strings.Contains(cause.Error(), "no stream") {
			t.Errorf("ended: %v", cause)
		}
	case <-time.After(30 * time.Second):
		t.Error("it stays for ever")
	}
}

// heldOpen serves streams that end when the agent ends them, and tells of each.
func heldOpen(t *testing.T, opts transport.ServeOptions) (ep transport.Endpoint, d *transport.Dialer, began chan transport.Conn) {
	ca := poiptest.NewCA(t)
	began = make(chan transport.Conn, 100)
	ep = relay(t, "quic", ca.IntakeTLS(), opts, func(_ context.Context, c transport.Conn) {
		began <- c
		io.Copy(io.Discard, c)
	})
	return ep, dialer(t, ca.AgentTLS("branch-7")), began
}

func openStream(t *testing.T, d *transport.Dialer, ep transport.Endpoint) transport.Conn {
	t.Helper()
	c, err := d.Open(t.Context(), ep)
	must(t, err)
	send(t, c, []byte{1})
	return c
}

func TestStreamsOfOneEndpointShareAConnection(t *testing.T) {
	ep, d, began := heldOpen(t, transport.ServeOptions{})
	dials := 0
	d.Resolved = func([]netip.AddrPort) { dials++ }
	var conns []transport.Conn
	for range 5 {
		conns = append(conns, openStream(t, d, ep))
	}
	from := (<-began).RemoteAddr().String()
	for range 4 {
		if c := <-began; c.RemoteAddr().String() != from {
			t.Errorf("streams come from %s and %s", from, c.RemoteAddr())
		}
	}
	for _, c := range conns[1:] {
		must(t, c.Close())
	}
	send(t, conns[0], []byte("the others' end is not mine"))
	must(t, conns[0].Close())
	if dials != 1 {
		t.Errorf("%d dials", dials)
	}

	c := openStream(t, d, ep) // the last stream took the connection with it
	if dials != 2 {
		t.Errorf("%d dials after the last stream had ended", dials)
	}
	must(t, c.Close())
}

func TestStreamsOpenedAtOnceShareADial(t *testing.T) {
	ep, d, _ := heldOpen(t, transport.ServeOptions{})
	var dials atomic.Int32
	d.Resolved = func([]netip.AddrPort) { dials.Add(1) }
	conns := make(chan transport.Conn, 10)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			c, err := d.Open(t.Context(), ep)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			conns <- c
		})
	}
	all.Wait()
	close(conns)
	for c := range conns {
		must(t, c.Abort())
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
}

func TestADeadConnectionIsDialedAnew(t *testing.T) {
	ca := poiptest.NewCA(t)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	addr := pc.LocalAddr().String()
	serve := func(pc net.PacketConn) (end func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var server sync.WaitGroup
		server.Go(func() {
			transport.ServeQUIC(ctx, pc, ca.IntakeTLS(), transport.ServeOptions{}, func(ctx context.Context, c transport.Conn) {
				<-ctx.Done()
				c.Abort()
			})
		})
		return func() { cancel(); server.Wait() }
	}
	end := serve(pc)
	ep, err := transport.ParseEndpoint("quic://" + addr)
	must(t, err)
	d := dialer(t, ca.AgentTLS("branch-7"))
	old := openStream(t, d, ep)
	end()
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the stream outlived its relay")
	}
	pc, err = net.ListenPacket("udp", addr)
	must(t, err)
	defer serve(pc)()
	fresh := openStream(t, d, ep) // beside the old one, which is still open
	must(t, old.Abort())
	send(t, fresh, []byte("still here"))
	must(t, fresh.Abort())
}

func TestStreamsAreBounded(t *testing.T) {
	ep, d, _ := heldOpen(t, transport.ServeOptions{MaxStreams: 2})
	a, b := openStream(t, d, ep), openStream(t, d, ep)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := d.Open(ctx, ep); err == nil || !strings.Contains(err.Error(), "no more streams") {
		t.Errorf("a third stream: %v", err)
	}
	must(t, a.Close())
	c := openStream(t, d, ep) // in the place of the first
	must(t, b.Close())
	must(t, c.Close())
}

// What quic-go would print goes to our log or nowhere.
func TestQUICLeavesTheLogAlone(t *testing.T) {
	var log journal
	before := slog.Default()
	slog.SetDefault(log.logger()) // takes package log's output along
	defer slog.SetDefault(before)
	ep, d, _ := heldOpen(t, transport.ServeOptions{Log: slog.New(slog.DiscardHandler)})
	must(t, openStream(t, d, ep).Close())
	if strings.Contains(log.String(), "quic-go") {
		t.Errorf("it says:\n%s", &log)
	}
}
