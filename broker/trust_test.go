package broker

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/wire"
)

// verdicts is a judge that the test tells what to say of everybody.
type verdicts struct{ now atomic.Pointer[wire.Refusal] }

func (v *verdicts) judge([]*x509.Certificate) error {
	if r := v.now.Load(); r != nil {
		return *r
	}
	return nil
}

// judgedWorld is a relay whose trust is in the test's hands. It announces
// nobody and judges nobody before it is told of a change.
func judgedWorld(t *testing.T, sign func([]*x509.Certificate, []byte, string) ([]*x509.Certificate, error)) (*world, *verdicts) {
	t.Helper()
	v := new(verdicts)
	return startWorld(t, testConfig(t, nil), func(o *Options) { o.Standing, o.Renew = v.judge, sign }), v
}

// frame waits for the next frame that is no ack, and gives its payload.
func (a *agent) frame(want wire.Type) []byte {
	a.t.Helper()
	for {
		switch h, payload := a.receive(); h.Type {
		case want:
			return payload
		case wire.TypeAck:
		default:
			a.t.Fatalf("wanted type %d, got %d %q", want, h.Type, payload)
		}
	}
}

// TestSessionsEndWhenTheirCertificateDoesNotStandAnyMore: those that are there,
// and those on connections that are there. Without guard.review nobody goes.
func TestSessionsEndWhenTheirCertificateDoesNotStandAnyMore(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeRevoked, wire.CodeExpired} {
		w, v := judgedWorld(t, nil)
		a, b := w.agent("branch-7/eth0"), w.agent("branch-8/eth0")
		silent := w.dial("branch-9") // has not even said hello
		w.eventually("all three are known", func() bool {
			w.guard.mu.Lock()
			defer w.guard.mu.Unlock()
			return len(w.guard.guests) == 3
		})
		v.now.Store(&wire.Refusal{Code: code, Reason: "the test says so"})
		w.TrustChanged(nil)
		for _, agent := range []*agent{a, b, silent} {
			if r := agent.refused(); r.Code != code {
				t.Errorf("refused with %s, want %s", r.Code, code)
			}
		}
		if r := w.dial("branch-10").refused(); r.Code != code {
			t.Errorf("a newcomer is refused with %s, want %s", r.Code, code)
		}
		w.eventually("nobody is left", func() bool {
			w.guard.mu.Lock()
			defer w.guard.mu.Unlock()
			return len(w.guard.guests) == 0
		})
	}
}

// TestAuthoritiesAreAnnounced: in the answer to the first hello, and when they
// change. Without session.announce agents never hear of a new one.
func TestAuthoritiesAreAnnounced(t *testing.T) {
	w, _ := judgedWorld(t, nil)
	w.TrustChanged([][]byte{{1}})
	a := w.agent("branch-7/eth0")
	trusts := func(want string) {
		t.Helper()
		trust, err := wire.ParseTrust(a.frame(wire.TypeTrust))
		if err != nil || len(trust.Authorities) != len(want) || string(trust.Authorities[0]) != want[:1] {
			t.Errorf("announced %x, %v; want %x", trust.Authorities, err, want)
		}
	}
	trusts("\x01")
	w.TrustChanged([][]byte{{1}}) // is no change
	w.TrustChanged([][]byte{{2}, {1}})
	a.packets("wakes the relay up")
	trusts("\x02\x01")
}

// TestRenewalOverTheSession: the answer comes on the session that asked, and
// everybody who went by the old certificate goes by the new one.
func TestRenewalOverTheSession(t *testing.T) {
	fresh := &x509.Certificate{Raw: []byte("new"), NotAfter: time.Now().Add(time.Hour)}
	var asked atomic.Int32
	w, _ := judgedWorld(t, func(chain []*x509.Certificate, request []byte, _ string) ([]*x509.Certificate, error) {
		if asked.Add(1) > 1 {
			return nil, errors.New("enough of them")
		}
		if string(request) != "csr" || chain[0].Subject.CommonName != "branch-7" {
			t.Errorf("asked for %q by %s", request, chain[0].Subject)
		}
		return []*x509.Certificate{fresh}, nil
	})
	a := w.agent("branch-7/eth0")
	a.send(wire.AppendRenew(nil, wire.Renew{Request: []byte("csr")}))
	c, err := wire.ParseCertificate(a.frame(wire.TypeCertificate))
	if err != nil || len(c.Chain) != 1 || string(c.Chain[0]) != "new" {
		t.Errorf("answer %+v, %v", c, err)
	}
	w.guard.mu.Lock()
	for n := range w.guard.guests {
		if n.chain[0] != fresh {
			t.Error("the session still goes by the old certificate")
		}
	}
	w.guard.mu.Unlock()
	a.send(wire.AppendRenew(nil, wire.Renew{Request: []byte("csr")}))
	if c, err = wire.ParseCertificate(a.frame(wire.TypeCertificate)); err != nil || !strings.Contains(c.Reason, "enough") {
		t.Errorf("answer %+v, %v", c, err)
	}
	a.packets("it goes on")
	a.acked(1)
}

func TestRenewalOutOfPlaceIsRefused(t *testing.T) {
	release := make(chan struct{})
	w, _ := judgedWorld(t, func([]*x509.Certificate, []byte, string) ([]*x509.Certificate, error) {
		<-release
		return nil, errors.New("released")
	})
	stranger := w.dial("branch-7")
	stranger.send(wire.AppendRenew(nil, wire.Renew{Request: []byte("csr")}))
	if r := stranger.refused(); r.Code != wire.CodeProtocol {
		t.Errorf("before a hello: %s", r.Code)
	}
	a := w.agent("branch-7/eth0")
	a.send(wire.AppendTrust(nil, wire.Trust{Authorities: [][]byte{{1}}}))
	if r := a.refused(); r.Code != wire.CodeProtocol {
		t.Errorf("a trust from an agent: %s", r.Code)
	}
	b := w.agent("branch-8/eth0")
	b.send(wire.AppendRenew(nil, wire.Renew{Request: []byte("1")}))
	b.send(wire.AppendRenew(nil, wire.Renew{Request: []byte("2")}))
	r := b.refused()
	close(release)
	if r.Code != wire.CodeProtocol {
		t.Errorf("two at once: %s", r.Code)
	}
}

// certificates of the guard's own arithmetic; they are never verified.
func madeUp(name string, left time.Duration) []*x509.Certificate {
	return []*x509.Certificate{{Raw: []byte(name), NotAfter: time.Now().Add(left)}}
}

// TestWhoComesWithARenewedCertificateGoesByTheNewOne: a stream on a connection
// that is older than the renewal. Without guard.successor it would end with
// the old certificate, however often that was renewed.
func TestWhoComesWithARenewedCertificateGoesByTheNewOne(t *testing.T) {
	first, second, third := madeUp("1", time.Hour), madeUp("2", 2*time.Hour), madeUp("3", 3*time.Hour)
	next := map[string][]*x509.Certificate{"1": second, "2": third}
	g := newGuard(Options{Renew: func(chain []*x509.Certificate, _ []byte, _ string) ([]*x509.Certificate, error) {
		return next[string(chain[0].Raw)], nil
	}})
	enter := func(chain []*x509.Certificate) *guest {
		n, err := g.enter("", "branch-7", chain, func(wire.Code) {})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := enter(first)
	for range 2 {
		if _, err := g.renew(a, nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	for what, chain := range map[string][]*x509.Certificate{"first": first, "second": second, "third": third} {
		if got := enter(chain).chain[0]; got != third[0] {
			t.Errorf("who comes with the %s goes by %s", what, got.Raw)
		}
	}
}

// TestRevocationsHoldWhileSomebodyRenews: a certificate that is revoked between
// its making and its use sends away who goes by it. Without the verdict in
// guard.renew a review that was under way meanwhile would be the last.
func TestRevocationsHoldWhileSomebodyRenews(t *testing.T) {
	first, second := madeUp("1", time.Hour), madeUp("2", time.Hour)
	revoked := false
	g := newGuard(Options{
		Log: slog.New(slog.DiscardHandler),
		Standing: func(chain []*x509.Certificate) error {
			if revoked && chain[0] == second[0] {
				return wire.Refusal{Code: wire.CodeRevoked}
			}
			return nil
		},
		Renew: func([]*x509.Certificate, []byte, string) ([]*x509.Certificate, error) {
			revoked = true
			return second, nil
		},
	})
	ended := wire.Code(0)
	n, err := g.enter("", "branch-7", first, func(code wire.Code) { ended = code })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.renew(n, nil, ""); err != nil || ended != wire.CodeRevoked {
		t.Errorf("ended with %v, %v", ended, err)
	}
}

// TestTakeoverFromElsewhereIsCounted: an alarm for certificates that two use.
// Without the line in fence that calls takenOver, none is.
func TestTakeoverFromElsewhereIsCounted(t *testing.T) {
	w := newWorld(t, nil)
	count := func() uint64 {
		w.guard.mu.Lock()
		defer w.guard.mu.Unlock()
		return w.guard.elsewhere["branch-7"]
	}
	sessions := []*agent{w.agent("branch-7/eth0"), w.agent("branch-7/eth0"), w.dialFrom("127.0.0.2", "branch-7")}
	sessions[2].hello("branch-7/eth0")
	for i, a := range sessions[:2] {
		if r := a.refused(); r.Code != wire.CodeFenced {
			t.Errorf("session %d is refused with %s", i, r.Code)
		}
	}
	if n := count(); n != 1 {
		t.Errorf("%d takeovers count; want that from another address", n)
	}
}

// dialFrom opens a session from another address of this machine.
func (w *world) dialFrom(address, sensor string) *agent {
	w.t.Helper()
	config := w.ca.AgentTLS(sensor)
	config.ServerName = "127.0.0.1"
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	conn, err := tls.DialWithDialer(&dialer, "tcp", w.tcp.Addr().String(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &agent{t: w.t, conn: conn, r: bufio.NewReader(conn)}
}

func TestRosterRemembersWhoWasSeen(t *testing.T) {
	w := newWorld(t, nil)
	a := w.agent("branch-7/eth0", func(h *wire.Hello) { h.Agent = "agent \x1b 1" })
	a.packets("x")
	a.acked(1)
	if err := w.writeRoster(&Roster{Sensors: map[auth.SensorName]Sighting{"gone": {Last: time.Unix(1, 0), Online: true}}}, true); err != nil {
		t.Fatal(err)
	}
	r, err := LoadRoster(w.cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if s := r.Sensors["branch-7"]; !r.Online("branch-7", now) || s.Streams["eth0"] != "live" || s.Agent != "agent \ufffd 1" || s.Remote == "" || now.Sub(s.Last) > time.Minute {
		t.Errorf("seen as %+v", s)
	}
	if r.Online("gone", now) || r.Sensors["gone"].Last.Unix() != 1 {
		t.Errorf("who is gone is seen as %+v", r.Sensors["gone"])
	}
	if r.Online("branch-7", now.Add(time.Hour)) {
		t.Error("online on the word of a relay that has not written for an hour")
	}
	w.stop()
	if r, err = LoadRoster(w.cfg.Data); err != nil || r.Running || r.Online("branch-7", now) {
		t.Errorf("a relay that has ended says %+v, %v", r, err)
	}
}
