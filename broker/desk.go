package broker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/audit"
	"poip/internal/owner"
)

// A rank is what somebody may do at the administration. Each may do what those
// before it may; the zero value may do nothing.
type rank int

const (
	nobody   rank = iota
	viewer        // see status and metrics
	operator      // change something
)

func parseRank(s string) (rank, error) {
	switch s {
	case "":
		return nobody, nil
	case "viewer":
		return viewer, nil
	case "operator":
		return operator, nil
	}
	return nobody, fmt.Errorf("%q: want \"viewer\" or \"operator\"", s)
}

const (
	// hashers is how many passwords are checked at a time, tens of megabytes
	// each, and queueing how many may wait for that.
	hashers  = 2
	queueing = 16

	// One address may fail to log in so often at once, then once in so long.
	loginBurst = 5
	loginEvery = 10 * time.Second
	maxCallers = 4096 // addresses that are remembered

	// rememberFor is how long a log-in that was right costs nothing.
	rememberFor = 10 * time.Minute

	maxPasswordFile = 1 << 20
)

// A desk is where people say who they are to the administration.
type desk struct {
	rules   atomic.Pointer[deskRules] // replaced by a reload
	work    chan struct{}             // holds one for each password that is checked
	waiting atomic.Int32
	secret  [32]byte // of the tags

	mu      sync.Mutex
	callers map[netip.Prefix]*caller // guarded by mu
	known   map[string]remembered    // guarded by mu; by user, of those that exist
}

// deskRules are what the configuration says of the desk.
type deskRules struct {
	config    AdminConfig
	name      string          // the relay's
	passwords *auth.Passwords // nil: none are asked for
}

// A caller is an address that has failed to log in.
type caller struct {
	tokens float64
	filled time.Time
}

// remembered is a log-in that was right.
type remembered struct {
	tag   [sha256.Size]byte
	rank  rank
	until time.Time
}

func (b *Broker) newDesk(cfg Config) (*desk, error) {
	d := &desk{work: make(chan struct{}, hashers), callers: make(map[netip.Prefix]*caller), known: make(map[string]remembered)}
	if _, err := rand.Read(d.secret[:]); err != nil {
		return nil, err
	}
	rules := &deskRules{config: cfg.Admin, name: cfg.Name}
	var err error
	if rules.passwords, err = cfg.passwords(); err != nil {
		return nil, err
	}
	d.rules.Store(rules)
	return d, nil
}

// replace puts the rules of another desk in force. What was remembered is
// forgotten: a password may have changed.
func (d *desk) replace(next *desk) {
	d.rules.Store(next.rules.Load())
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.known)
}

// passwords reads the file of the key admin.passwords; nil, if there is none.
func (c Config) passwords() (*auth.Passwords, error) {
	path := c.Admin.Passwords
	if path == "" || c.Admin.Listen == "" {
		return nil, nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.Data, path)
	}
	text, err := readPasswords(path)
	if err != nil {
		return nil, fmt.Errorf("key admin.passwords: %w", err)
	}
	p, err := auth.ParsePasswords(text, "viewer", "operator")
	if err != nil {
		return nil, fmt.Errorf("key admin.passwords: %s: %w", path, err)
	}
	return p, nil
}

func readPasswords(path string) (string, error) {
	f, err := owner.OpenSecret(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPasswordFile+1))
	if err == nil && len(text) > maxPasswordFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxPasswordFile)
	}
	return string(text), err
}

// A denial is an answer to somebody who may not do what he asks for.
type denial struct {
	status int
	text   string
	word   string // for the audit log; empty: nothing happened
	actor  string // a user that exists, or an analyst
}

func (d denial) Error() string { return d.text }

// identify says who sends a request, and what that allows.
func (b *Broker) identifyCaller(r *http.Request) (name string, rank rank, err error) {
	rules := b.desk.rules.Load()
	switch {
	case rules.config.ClientAuth == "cert":
		return b.certifiedCaller(r.TLS)
	case rules.passwords != nil:
		return b.desk.login(rules.passwords, r)
	case rules.config.local():
		return "local", rules.config.localRank(), nil
	}
	return "", nobody, denial{status: http.StatusForbidden, text: "nobody may log in here"}
}

func (b *Broker) certifiedCaller(state *tls.ConnectionState) (string, rank, error) {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return "", nobody, denial{status: http.StatusForbidden, text: "no certificate", word: "certificate"}
	}
	name, err := b.opts.AnalystOf(state.PeerCertificates[0])
	if err == nil {
		err = b.guard.verdict(state.PeerCertificates)
	}
	if err == nil && time.Now().After(state.PeerCertificates[0].NotAfter) {
		err = errors.New("the certificate has expired")
	}
	if err != nil {
		return "", nobody, denial{status: http.StatusForbidden, text: err.Error(), word: "certificate", actor: string(name)}
	}
	m := (*b.members.Load())[name]
	if m == nil || m.rank == nobody {
		return "", nobody, denial{status: http.StatusForbidden, text: "the administration is not for this analyst (key admin of [[relay.analyst]])", word: "certificate", actor: string(name)}
	}
	return string(name), m.rank, nil
}

// login checks a name and a password. Whether it is the name that is wrong or
// the password shows neither in the answer nor in the time that it takes.
func (d *desk) login(passwords *auth.Passwords, r *http.Request) (string, rank, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return "", nobody, denial{status: http.StatusUnauthorized, text: "log in"}
	}
	conn, tag := waiterOf(r), d.tag(name, password)
	if rank, ok := d.recall(name, tag); ok && hmac.Equal(conn.login[:], tag[:]) {
		return name, rank, nil // whatever others behind this address do; elsewhere it would be a guess like any other
	}
	from := callerOf(r.RemoteAddr)
	if !d.mayTry(from, time.Now()) {
		return "", nobody, denial{status: http.StatusTooManyRequests, text: "too many log-ins have failed; wait a minute", word: "limit"}
	}
	rank, err := d.check(r.Context(), passwords, name, password)
	if err == nil || errors.As(err, new(busy)) {
		d.forgive(from)
	}
	switch {
	case errors.As(err, new(busy)):
		return "", nobody, denial{status: http.StatusServiceUnavailable, text: err.Error(), word: "busy"}
	case err != nil:
		known := ""
		if passwords.Known(name) {
			known = name // what is no name may be a password
		}
		return "", nobody, denial{status: http.StatusUnauthorized, text: "wrong name or password", word: "login", actor: known}
	}
	conn.login = tag
	return name, rank, nil
}

// busy says that too many wait for their passwords to be checked.
type busy struct{}

func (busy) Error() string { return "too many log in at once; try again" }

var errWrong = errors.New("wrong name or password")

// check verifies a password, unless it was right a short while ago.
func (d *desk) check(ctx context.Context, passwords *auth.Passwords, name, password string) (rank, error) {
	tag := d.tag(name, password)
	if rank, ok := d.recall(name, tag); ok {
		return rank, nil
	}
	if d.waiting.Add(1) > queueing {
		d.waiting.Add(-1)
		return nobody, busy{}
	}
	defer d.waiting.Add(-1)
	select {
	case d.work <- struct{}{}:
	case <-ctx.Done():
		return nobody, busy{}
	}
	role, ok := passwords.Verify(name, password)
	<-d.work
	if !ok {
		return nobody, errWrong
	}
	rank, err := parseRank(role)
	if err == nil {
		d.remember(passwords, name, tag, rank)
	}
	return rank, err
}

func (d *desk) tag(name, password string) (out [sha256.Size]byte) {
	mac := hmac.New(sha256.New, d.secret[:])
	fmt.Fprintf(mac, "%d:%s:%s", len(name), name, password)
	mac.Sum(out[:0])
	return out
}

func (d *desk) recall(name string, tag [sha256.Size]byte) (rank, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k, ok := d.known[name]
	if !ok || time.Now().After(k.until) || !hmac.Equal(k.tag[:], tag[:]) {
		return nobody, false
	}
	return k.rank, true
}

// remember does so unless the passwords were replaced meanwhile.
func (d *desk) remember(of *auth.Passwords, name string, tag [sha256.Size]byte, rank rank) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if of != d.rules.Load().passwords {
		return
	}
	d.known[name] = remembered{tag, rank, time.Now().Add(rememberFor)}
}

// mayTry takes one of the address's tries.
func (d *desk) mayTry(from netip.Prefix, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.caller(from, now)
	c.tokens = min(loginBurst, c.tokens+now.Sub(c.filled).Seconds()/loginEvery.Seconds())
	c.filled = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	return true
}

// caller is for holders of mu. When too many addresses are remembered, those
// that have all their tries again are forgotten; and if that is not enough,
// newcomers share one account.
func (d *desk) caller(from netip.Prefix, now time.Time) *caller {
	if c := d.callers[from]; c != nil {
		return c
	}
	if len(d.callers) >= maxCallers {
		for a, c := range d.callers {
			if c.tokens+now.Sub(c.filled).Seconds()/loginEvery.Seconds() >= loginBurst {
				delete(d.callers, a)
			}
		}
	}
	if len(d.callers) >= maxCallers {
		from = netip.Prefix{}
		if c := d.callers[from]; c != nil {
			return c
		}
	}
	c := &caller{tokens: loginBurst, filled: now}
	d.callers[from] = c
	return c
}

// forgive gives a try back.
func (d *desk) forgive(from netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.callers[from]; c != nil {
		c.tokens++
	}
}

// callerOf is an IPv4 address, or the 64 bits of an IPv6 address that one
// customer gets; the zero Prefix, for a socket of this machine.
func callerOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // bits fit
	return prefix
}

// auditDenial notes who was turned away at the administration.
func (b *Broker) auditDenial(remote string, d denial) {
	if d.word == "" {
		return
	}
	b.complaints.Warn(b.log, "refused at the administration", "remote", remote, "user", d.actor, "why", d.word, "reason", d.text)
	b.opts.Audit.Refuse(d.word, audit.Entry{Event: audit.AdminRefused, Actor: d.actor, Remote: remote, Reason: d.text})
}
