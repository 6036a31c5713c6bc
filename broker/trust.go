package broker

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"poip/auth"
	"poip/internal/wire"
)

// This file is trust while connections last: a certificate may expire, be
// revoked or be renewed long after the handshake that has shown it.

// A guard knows everybody who came in with a certificate, and sends away whose
// certificate does not stand any more.
type guard struct {
	// Set once.
	judge func([]*x509.Certificate) error // says why a chain does not stand, a wire.Refusal; nil: all do
	sign  func(chain []*x509.Certificate, request []byte, remote string) ([]*x509.Certificate, error)
	log   *slog.Logger

	changed      chan struct{}          // of capacity 1: what stands may be others now
	announcement atomic.Pointer[[]byte] // a trust frame; nil: nothing to announce
	signing      sync.WaitGroup

	mu        sync.Mutex // guards what follows
	guests    map[*guest]struct{}
	successor map[string]succession      // by the certificate that was renewed, in DER
	elsewhere map[auth.SensorName]uint64 // sessions that another address took over from
}

// A guest is one connection, or one stream of it, whose peer has shown a
// certificate.
type guest struct {
	name string          // for the log
	who  auth.SensorName // empty: an analyst
	end  func(wire.Code) // ends the connection soon

	chain []*x509.Certificate // guarded by guard.mu: as it was shown, or what it was renewed to
	ended bool                // guarded by guard.mu
}

// A succession keeps those apart who still come with the certificate of
// before: a stream on a connection that has it from its handshake.
type succession struct {
	chain []*x509.Certificate
	until time.Time // the end of the one before: nobody comes with that any more
}

func newGuard(o Options) *guard {
	return &guard{
		judge: o.Standing, sign: o.Renew, log: o.Log,
		changed:   make(chan struct{}, 1),
		guests:    make(map[*guest]struct{}),
		successor: make(map[string]succession),
		elsewhere: make(map[auth.SensorName]uint64),
	}
}

// TrustChanged is told that certificates, authorities or revocations have
// changed: everybody is judged anew, and agents hear whom to trust from here
// on, as certs.Trust announces it.
func (b *Broker) TrustChanged(authorities [][]byte) {
	if !wire.CertificatesFit(authorities) {
		b.log.Error("authorities take too much room to announce them to agents; copy ca.pem there by hand", "count", len(authorities))
	} else if len(authorities) > 0 {
		frame := wire.AppendTrust(nil, wire.Trust{Authorities: authorities})
		if old := b.guard.announcement.Load(); old == nil || !bytes.Equal(*old, frame) {
			b.guard.announcement.Store(&frame) // sessions know it by its address
		}
	}
	select {
	case b.guard.changed <- struct{}{}:
	default:
	}
}

// enter lets a guest in, or says why its certificate does not stand. It has to
// leave.
func (g *guard) enter(name string, who auth.SensorName, chain []*x509.Certificate, end func(wire.Code)) (*guest, error) {
	g.mu.Lock()
	if next, ok := g.successor[string(chain[0].Raw)]; ok {
		chain = next.chain
	}
	n := &guest{name: name, who: who, end: end, chain: chain}
	g.guests[n] = struct{}{} // before it is judged, so that no change is missed
	g.mu.Unlock()
	if err := g.verdict(chain); err != nil {
		g.leave(n)
		return nil, err
	}
	return n, nil
}

// vouch has a session of an agent looked after, which admitSession has let in,
// or undoes that.
func (b *Broker) vouch(s *session) (err error) {
	s.guest, err = b.guard.enter("sensor "+string(s.sensor), s.sensor, s.conn.TLS().PeerCertificates, s.interrupt)
	if err != nil {
		b.hangUp(s)
	}
	return err
}

// vouchAnalyst is the same for an analyst, who may have no certificate.
func (b *Broker) vouchAnalyst(s *subscriber) (leave func(), err error) {
	if s.out.tls == nil || len(s.out.tls.ConnectionState().PeerCertificates) == 0 {
		return func() {}, nil
	}
	end := func(code wire.Code) { s.dismiss("certificate: " + code.String()) }
	n, err := b.guard.enter("analyst at "+s.remote, "", s.out.tls.ConnectionState().PeerCertificates, end)
	return func() { b.guard.leave(n) }, err
}

func (g *guard) leave(n *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.guests, n)
}

// verdict is the judge's, as a refusal.
func (g *guard) verdict(chain []*x509.Certificate) error {
	if g.judge == nil {
		return nil
	}
	err := g.judge(chain)
	if err == nil || errors.As(err, new(wire.Refusal)) {
		return err
	}
	return refuse(wire.CodeForbidden, "%s", err)
}

// watch sends away whose time is over, every second, and judges everybody
// when something has changed, until ctx ends.
func (g *guard) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			g.review(func(n *guest) bool { return now.After(n.chain[0].NotAfter) })
		case <-g.changed:
			g.review(func(*guest) bool { return true })
		}
	}
}

// review judges those guests whom which picks, each certificate once.
func (g *guard) review(which func(*guest) bool) {
	g.mu.Lock()
	chains := make(map[*x509.Certificate][]*x509.Certificate)
	for n := range g.guests {
		if !n.ended && which(n) {
			chains[n.chain[0]] = n.chain
		}
	}
	g.mu.Unlock()
	for leaf, chain := range chains {
		if err := g.verdict(chain); err != nil {
			g.sendAway(leaf, err)
		}
	}
}

// sendAway ends everything that goes by a certificate.
func (g *guard) sendAway(leaf *x509.Certificate, reason error) {
	var refusal wire.Refusal
	errors.As(reason, &refusal) // verdict gives nothing else
	g.mu.Lock()
	var gone []*guest
	for n := range g.guests {
		if n.chain[0] == leaf && !n.ended {
			n.ended = true
			gone = append(gone, n)
		}
	}
	g.mu.Unlock()
	for _, n := range gone {
		g.log.Warn("sending away", "who", n.name, "code", refusal.Code.String(), "reason", refusal.Reason)
		n.end(refusal.Code)
	}
}

// renew has a request signed, and lets everybody who goes by the certificate
// of before go by the new one.
func (g *guard) renew(n *guest, request []byte, remote string) (wire.Certificate, error) {
	g.mu.Lock()
	old := n.chain
	g.mu.Unlock()
	if g.sign == nil {
		return wire.Certificate{}, errors.New("this relay does not renew certificates")
	}
	chain, err := g.sign(old, request, remote)
	if err != nil {
		return wire.Certificate{}, err
	}
	g.mu.Lock()
	for other := range g.guests {
		if other.chain[0].Equal(old[0]) {
			other.chain = chain
		}
	}
	g.succeed(old[0], chain)
	g.mu.Unlock()
	if err := g.verdict(chain); err != nil { // it was revoked while a review looked for the one before
		g.sendAway(chain[0], err)
	}
	var answer wire.Certificate
	for _, c := range chain {
		answer.Chain = append(answer.Chain, c.Raw)
	}
	return answer, nil
}

// succeed remembers what a certificate was renewed to; for holders of mu.
func (g *guard) succeed(old *x509.Certificate, chain []*x509.Certificate) {
	now := time.Now()
	for key, s := range g.successor {
		switch {
		case now.After(s.until):
			delete(g.successor, key)
		case s.chain[0].Equal(old):
			g.successor[key] = succession{chain, s.until}
		}
	}
	g.successor[string(old.Raw)] = succession{chain, old.NotAfter}
}

// vouched is what a session has to do with its certificate.
type vouched struct {
	guard       *guard                 // set once before it runs; nil: there is none
	guest       *guest                 // the same
	signing     atomic.Bool            // a request is on its way
	certificate atomic.Pointer[[]byte] // the answer to it, a frame; nil: none, or it was sent
	announced   *[]byte                // the guard's announcement that was sent last; owned by the session
}

// answerRenewal is what becomes of one request; in a goroutine, so that a
// stream never waits for a disk or for another process.
func (s *session) answerRenewal(g *guard, request []byte) {
	remote := s.conn.RemoteAddr().String()
	answer, err := g.renew(s.guest, request, remote)
	if err != nil {
		s.complain(s.log, "sensor's certificate is not renewed", "error", err)
		answer = wire.Certificate{Reason: err.Error()}
	} else {
		s.log.Info("sensor's certificate renewed")
	}
	frame := wire.AppendCertificate(nil, answer)
	s.certificate.Store(&frame)
	s.signing.Store(false)
	_ = s.conn.SetReadDeadline(time.Now()) // so that it is sent now; else it comes with the next ack
}

// renew obeys a renew frame: the answer comes with one of the next acks.
func (s *session) renew(payload []byte) error {
	r, err := wire.ParseRenew(payload)
	if err != nil {
		return err
	}
	if s.guard == nil {
		return s.outOfPlace(wire.TypeRenew)
	}
	if !s.signing.CompareAndSwap(false, true) {
		return refuse(wire.CodeProtocol, "a renewal before the answer to the last one")
	}
	request := slices.Clone(r.Request)
	s.guard.signing.Go(func() { s.answerRenewal(s.guard, request) })
	return nil
}

// announce adds what there is to tell about certificates to what is about to
// be written.
func (s *session) announce(out []byte) []byte {
	if s.guard == nil {
		return out
	}
	if frame := s.certificate.Swap(nil); frame != nil {
		out = append(out, *frame...)
	}
	if trust := s.guard.announcement.Load(); trust != s.announced {
		s.announced = trust // it never goes back to nil
		out = append(out, *trust...)
	}
	return out
}

// takenOver counts a session that another one took over from, at another
// address: perhaps a sensor that moved, perhaps two with one certificate.
func (g *guard) takenOver(st *stream, older, newer *session) {
	from, to := hostOf(older.conn.RemoteAddr()), hostOf(newer.conn.RemoteAddr())
	if from == to {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.elsewhere[newer.sensor]++
	st.log.Log(context.Background(), st.seldom(&st.elsewhereSaid, slog.LevelError), "another address takes the stream over: the sensor has moved, or two agents use one certificate", "from", from.String(), "to", to.String())
}

func hostOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

var (
	metricElsewhere = metric("fenced_elsewhere_total", "Sessions that one from another address took over from: cloned certificates do this.", "sensor")
	metricExpiry    = metric("sensor_certificate_expiry_timestamp_seconds", "When the certificate ends that a connected sensor goes by, in seconds since 1970.", "sensor")
	metricOwnExpiry = metric("certificate_expiry_timestamp_seconds", "When the relay's own certificate ends, in seconds since 1970.")
)

func (b *Broker) collectTrust(out chan<- prometheus.Metric) {
	if b.opts.Expiry != nil {
		gauge(out, metricOwnExpiry, float64(b.opts.Expiry().Unix()))
	}
	g := b.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	first := make(map[auth.SensorName]time.Time)
	for n := range g.guests {
		if end := n.chain[0].NotAfter; n.who != "" && (first[n.who].IsZero() || end.Before(first[n.who])) {
			first[n.who] = end
		}
	}
	for sensor, end := range first {
		gauge(out, metricExpiry, float64(end.Unix()), string(sensor))
	}
	for sensor, n := range g.elsewhere {
		counter(out, metricElsewhere, n, string(sensor))
	}
}
