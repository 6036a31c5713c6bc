package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/config"
)

// This file is who analysts are, by certificate, and what that grants them.

// AnalystConfig is one [[relay.analyst]]: a person or a tool that reads.
type AnalystConfig struct {
	Name           string       `toml:"name"`
	Streams        []string     `toml:"streams"`
	MaxConnections config.Count `toml:"max_connections"` // at all listeners together; 0: 16
	Admin          string       `toml:"admin"`           // "", viewer, operator: of the administration
}

const analystConnections = 16

// members are all analysts that the configuration names. The map is never
// changed, only replaced.
type members map[auth.AnalystName]*member

// A member is one analyst.
type member struct {
	grant auth.Grant
	most  int // connections
	rank  rank
}

// compileMembers checks the analysts of a configuration.
func (c Config) compileMembers() (members, error) {
	out := make(members)
	var errs []error
	for i, a := range c.Analysts {
		name, m, err := a.compile()
		if err != nil {
			errs = append(errs, config.Within(fmt.Sprintf("analyst %d %q", i+1, a.Name), err))
			continue
		}
		if out[name] != nil {
			errs = append(errs, fmt.Errorf("analyst %d: the name %q is taken; write one [[relay.analyst]] with all its streams", i+1, a.Name))
		}
		out[name] = m
	}
	return out, errors.Join(errs...)
}

func (a AnalystConfig) compile() (auth.AnalystName, *member, error) {
	name, err := auth.ParseAnalystName(a.Name)
	errs := []error{}
	if err != nil {
		errs = append(errs, errors.New("key name: use a-z, 0-9 and, not in front, . _ -"))
	}
	patterns, err := compilePatterns(a.Streams)
	if err != nil {
		errs = append(errs, err)
	}
	m := &member{grant: auth.GrantOf(patterns...), most: int(a.MaxConnections)}
	if m.most == 0 {
		m.most = analystConnections
	}
	if m.most < 1 {
		errs = append(errs, fmt.Errorf("key max_connections: %d: want at least 1", a.MaxConnections))
	}
	if m.rank, err = parseRank(a.Admin); err != nil {
		errs = append(errs, fmt.Errorf("key admin: %w", err))
	}
	return name, m, errors.Join(errs...)
}

// compilePatterns reads the key streams.
func compilePatterns(streams []string) (out []auth.Pattern, err error) {
	if len(streams) == 0 {
		return nil, errors.New("key streams is missing: write patterns of sensor/capture, as in [\"*/*\"]")
	}
	for _, s := range streams {
		pattern, err := auth.ParsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("key streams: %w", err)
		}
		out = append(out, pattern)
	}
	return out, nil
}

// A visitor is an analyst who has shown a certificate.
type visitor struct {
	name  auth.AnalystName
	chain []*x509.Certificate // as it was shown
	grant auth.Grant          // guarded by Broker.mu: as the configuration has it now
}

// A visit is who a subscriber is, and what it was shown.
type visit struct {
	visitor *visitor // set once; nil: its listener asks for no certificate

	dismissed atomic.Pointer[string] // why it was sent home; nil: it was not

	shown []auth.StreamName // guarded by Broker.mu
}

func (v *visit) analyst() string {
	if v.visitor == nil {
		return ""
	}
	return string(v.visitor.name)
}

// note is for holders of Broker.mu. Only streams that come and go for ever
// reach the bound.
func (v *visit) note(name auth.StreamName) {
	if len(v.shown) < maxLeftOut && !slices.Contains(v.shown, name) {
		v.shown = append(v.shown, name)
	}
}

// offers says whether the subscriber may read the stream behind this door: both
// the listener and the analyst have to be granted it. For holders of Broker.mu.
func (d *door) offers(s *subscriber, name auth.StreamName) bool {
	return d.takes(name) && (s == nil || s.visit.may(name))
}

// may says whether the visit is one of somebody who may read the stream where
// it is offered. For holders of Broker.mu.
func (v *visit) may(name auth.StreamName) bool {
	return v.visitor == nil || v.visitor.grant.Has(name)
}

// meets says whether there can be a stream that the door has and the grant too.
func (d *door) meets(g auth.Grant) bool {
	p := d.listener.plan.Load()
	if p.config.Each {
		return g.Has(d.stream)
	}
	return g.Meets(auth.GrantOf(p.patterns...))
}

// A stranger is why somebody who has shown a certificate does not come in.
type stranger struct {
	analyst auth.AnalystName // empty: not even that
	reason  error
}

func (s stranger) Error() string { return s.reason.Error() }
func (s stranger) Unwrap() error { return s.reason }

// identify says whose a verified chain is, or why it opens no door here.
func (b *Broker) identify(d *door, chain []*x509.Certificate) (*visitor, error) {
	name, err := b.opts.AnalystOf(chain[0])
	if err != nil {
		return nil, stranger{"", err}
	}
	m := (*b.members.Load())[name]
	if m == nil {
		return nil, stranger{name, fmt.Errorf("analyst %q is not in the configuration", string(name))}
	}
	if !d.meets(m.grant) {
		return nil, stranger{name, fmt.Errorf("analyst %q is granted no stream of this listener", string(name))}
	}
	return &visitor{name: name, chain: chain, grant: m.grant}, nil
}

// tlsOf makes the TLS configuration of a door at which a certificate is asked
// for: who is not let in gets an alert, and not a byte.
func (b *Broker) tlsOf(d *door, config *tls.Config) *tls.Config {
	return guarded(config, func(state tls.ConnectionState) error {
		_, err := b.visitorOf(d, state)
		return err
	})
}

// guarded adds to what a server's configuration verifies, also where it asks
// for the one to use at each handshake. VerifyConnection is called for resumed
// sessions as well.
func guarded(config *tls.Config, verify func(tls.ConnectionState) error) *tls.Config {
	config = config.Clone()
	config.VerifyConnection = both(config.VerifyConnection, verify)
	if inner := config.GetConfigForClient; inner != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			current, err := inner(hello)
			if err != nil || current == nil {
				return nil, err
			}
			current = current.Clone()
			current.VerifyConnection = both(current.VerifyConnection, verify)
			return current, nil
		}
	}
	return config
}

func both(first, second func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if first != nil {
			if err := first(state); err != nil {
				return err
			}
		}
		return second(state)
	}
}

// visitorOf is for connections of listeners that ask for a certificate.
func (b *Broker) visitorOf(d *door, state tls.ConnectionState) (*visitor, error) {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil, stranger{"", errors.New("no verified certificate")}
	}
	v, err := b.identify(d, state.PeerCertificates)
	if err != nil {
		return nil, err
	}
	if err := b.guard.verdict(v.chain); err != nil {
		return nil, stranger{v.name, err}
	}
	return v, nil
}

// countIn lets one more connection of an analyst in; for holders of mu. What
// was looked at during the handshake may have changed since.
func (b *Broker) countIn(v *visitor, d *door) error {
	fresh, err := b.identify(d, v.chain)
	if err != nil {
		return err
	}
	if most := (*b.members.Load())[v.name].most; b.reading[v.name] >= most {
		return crowded{fmt.Errorf("analyst %q has %d connections already (max_connections)", string(v.name), most)}
	}
	v.grant = fresh.grant
	b.reading[v.name]++
	return nil
}

// countOut undoes countIn; for holders of mu.
func (b *Broker) countOut(v *visitor) {
	if b.reading[v.name]--; b.reading[v.name] == 0 {
		delete(b.reading, v.name)
	}
}

// crowded is an error about a limit.
type crowded struct{ error }

// regrant gives those who are connected what the configuration has for them
// now, by their listener and by their grant. Who has lost a stream that it was
// shown is sent home, and comes back without; who has got one more gets it;
// nobody else notices. The former plans are those of the listeners. For holders
// of mu.
func (b *Broker) regrant(former map[*listener]*plan) {
	for _, l := range b.listeners {
		for _, d := range l.doors {
			for s := range d.subscribers {
				b.regrantOne(d, s, former[l])
			}
		}
	}
}

func (b *Broker) regrantOne(d *door, s *subscriber, former *plan) {
	had := make(map[auth.StreamName]bool)
	for _, st := range b.order {
		had[st.name] = d.takesBy(former, st.name) && s.visit.may(st.name)
	}
	if v := s.visit.visitor; v != nil {
		fresh, err := b.identify(d, v.chain)
		if err != nil {
			s.dismiss(err.Error())
			return
		}
		v.grant = fresh.grant
	}
	for name, had := range had {
		if had && !d.offers(s, name) {
			s.dismiss("a stream is no longer granted")
			return
		}
	}
	b.showMore(d, s, had)
}

// dismiss ends a connection that is not allowed any more, at the end of the
// record that is being written.
func (s *subscriber) dismiss(reason string) {
	s.visit.dismissed.CompareAndSwap(nil, &reason)
	s.log.Info("analyst is sent home", "reason", reason)
	s.command(orderCut, time.Now().Add(time.Second))
}
