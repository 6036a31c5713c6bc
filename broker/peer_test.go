package broker

import (
	"bufio"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/transport"
	"poip/internal/wire"
)

// overQUIC is a relay that takes agents over QUIC.
func overQUIC(t *testing.T, change ...func(*Options)) (*world, transport.Endpoint) {
	t.Helper()
	w := startWorld(t, testConfig(t, func(c *Config) { c.Intake.QUIC = "127.0.0.1:0" }), change...)
	port := w.quic.LocalAddr().(*net.UDPAddr).Port
	return w, transport.Endpoint{Scheme: "quic", Host: "127.0.0.1", Port: uint16(port)}
}

// A peerConn is a QUIC connection of a sensor. The relay sees no stream of it
// before something is written.
type peerConn struct{ transport.Conn }

func (w *world) peer(ep transport.Endpoint, sensor string) peerConn {
	w.t.Helper()
	d := &transport.Dialer{TLS: w.ca.AgentTLS(sensor)}
	w.t.Cleanup(func() { d.Close() })
	conn, err := d.Open(w.t.Context(), ep)
	if err != nil {
		w.t.Fatal(err)
	}
	return peerConn{conn}
}

func (p peerConn) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b)
	return n, errors.Join(err, p.Flush())
}

func (p peerConn) SetDeadline(t time.Time) error {
	return errors.Join(p.SetReadDeadline(t), p.SetWriteDeadline(t))
}

// end is why the connection has ended, or a timeout.
func (p peerConn) end(patience time.Duration) error {
	p.SetReadDeadline(time.Now().Add(patience))
	_, err := p.Read(make([]byte, 1))
	return err
}

func (w *world) peers(sensor string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.connected[auth.SensorName(sensor)]
}

// TestConnectionsEndWhenTheirCertificateDoesNotStandAnyMore: those without
// streams within five seconds, and those with streams when these were told why.
// Without guard.enter in keepPeer the former stay.
func TestConnectionsEndWhenTheirCertificateDoesNotStandAnyMore(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeRevoked, wire.CodeExpired} {
		v := new(verdicts)
		w, ep := overQUIC(t, func(o *Options) { o.Standing = v.judge })
		talks := w.peer(ep, "branch-7")
		a := &agent{t: t, conn: talks, r: bufio.NewReader(talks)}
		a.hello("branch-7/eth0")
		silent := []peerConn{w.peer(ep, "branch-7"), w.peer(ep, "branch-7")}
		w.eventually("three connections", func() bool { return w.peers("branch-7") == 3 })
		v.now.Store(&wire.Refusal{Code: code, Reason: "the test says so"})
		w.TrustChanged(nil)
		for i, p := range silent {
			if err := p.end(5 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: silent connection %d: %v, want its end", code, i, err)
			}
		}
		if r := a.refused(); r.Code != code {
			t.Errorf("the session is refused with %s, want %s", r.Code, code)
		}
		w.eventually("nobody is left", func() bool {
			w.guard.mu.Lock()
			defer w.guard.mu.Unlock()
			return len(w.guard.guests) == 0
		})
		if n := w.peers("branch-7"); n != 0 {
			t.Errorf("%d connections are counted, and none is there", n)
		}
	}
}

// TestOneSensorsQUICConnections: they are bounded, whatever streams they have,
// and who is one too many hears why. Without countPeer there is no bound.
func TestOneSensorsQUICConnections(t *testing.T) {
	w, ep := overQUIC(t)
	var all []peerConn
	for range peersPerSensor {
		all = append(all, w.peer(ep, "branch-7"))
	}
	w.eventually("so many connections", func() bool { return w.peers("branch-7") == peersPerSensor })
	if err := w.peer(ep, "branch-7").end(5 * time.Second); err == nil || !strings.Contains(err.Error(), "QUIC connections already") {
		t.Errorf("one too many ends with %v", err)
	}
	w.eventually("a line of the log", func() bool { return strings.Contains(w.logs.String(), "refused a QUIC connection") })
	other := w.peer(ep, "branch-8")
	(&agent{t: t, conn: other, r: bufio.NewReader(other)}).hello("branch-8/eth0")
	all[0].Abort()
	w.eventually("a place", func() bool { return w.peers("branch-7") == peersPerSensor-1 })
	next := w.peer(ep, "branch-7")
	(&agent{t: t, conn: next, r: bufio.NewReader(next)}).hello("branch-7/eth0")
}
