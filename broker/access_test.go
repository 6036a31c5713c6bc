package broker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/audit"
	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// This file is who may read what: analyst by listener by stream.

// shown is a listener that asks for a certificate.
func shown(name string, streams ...string) ListenerConfig {
	return plain(name, func(l *ListenerConfig) {
		l.TLS, l.ClientAuth, l.Start, l.Streams = true, "cert", "oldest", streams
	})
}

// certificate makes one with these names, by the relay's authority.
func certificate(ca *poiptest.CA, change func(*x509.Certificate), uris ...string) *tls.Certificate {
	return ca.Forge(newKey(), func(c *x509.Certificate) {
		c.URIs, c.SerialNumber = nil, big.NewInt(time.Now().UnixNano())
		for _, s := range uris {
			u, _ := url.Parse(s)
			c.URIs = append(c.URIs, u)
		}
		if change != nil {
			change(c)
		}
	})
}

func (w *world) as(name string) *tls.Config {
	return w.with(certificate(w.ca, nil, "poip://analyst/"+name))
}

// with is a client that shows the certificate; nil: none.
func (w *world) with(cert *tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: w.ca.Pool, ServerName: "127.0.0.1"}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return config
}

// visit connects to a TLS listener. With TLS 1.3 the handshake looks good to
// who is refused, until he reads.
func (w *world) visit(address string, config *tls.Config) *analyst {
	w.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	return newAnalyst(w.t, tls.Client(conn, config))
}

// stopped is refused where TLS 1.2 makes the client wait for what the relay
// says of its certificate: the handshake itself fails.
func (a *analyst) stopped(what string, version uint16) {
	a.t.Helper()
	a.conn.SetDeadline(time.Now().Add(patience))
	if err := a.conn.(*tls.Conn).Handshake(); version == tls.VersionTLS12 && err == nil {
		a.t.Errorf("%s: the handshake is good", what)
	}
	a.refused(what)
}

// refused reads to the end, which has to come without a byte.
func (a *analyst) refused(what string) {
	a.t.Helper()
	a.conn.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(a.conn)
	if len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		a.t.Errorf("%s: %d bytes, %v", what, len(got), err)
	}
	a.conn.Close()
}

// withAudit has the relay keep an audit log.
func withAudit(t testing.TB) (path string, change func(*Options)) {
	path = filepath.Join(t.TempDir(), "audit", "audit.jsonl")
	return path, func(o *Options) {
		log, err := audit.Open(path, audit.Options{Log: o.Log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { log.Close() })
		o.Audit = log
	}
}

// audited waits for a line that suits.
func (w *world) audited(path, what string, suits func(audit.Entry) bool) (found audit.Entry) {
	w.t.Helper()
	w.eventually("an audit line about "+what, func() bool {
		for _, e := range auditLines(w.t, path) {
			if suits(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func auditLines(t testing.TB, path string) (out []audit.Entry) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err == nil { // the last may be half written
			out = append(out, e)
		}
	}
	return out
}

var grants = []AnalystConfig{
	{Name: "alice", Streams: []string{"*/*"}},
	{Name: "bob", Streams: []string{"s1/*"}},
	{Name: "carol", Streams: []string{"s2/a", "s1/b"}},
	{Name: "dave", Streams: []string{"elsewhere/*"}},
}

// TestMatrix: analyst by listener by stream, over TLS 1.2 and 1.3. Everybody
// gets just the packets of the streams that both are granted, and who has none
// of them gets not even a header.
//
// It fails without the grant in door.offers, without door.meets or the members
// in identify, and without tlsOf, which refuses in the midst of the handshake.
func TestMatrix(t *testing.T) {
	first := ports(t, 3)
	streams := []string{"s1/a", "s1/b", "s2/a"}
	listeners := map[string][]string{"all": {"*/*"}, "ones": {"s1/*"}, "as": {"*/a"}, "none": {"s3/*"}}
	var configs []ListenerConfig
	for name, patterns := range listeners {
		configs = append(configs, shown(name, patterns...))
	}
	configs = append(configs, each(first, 3))
	last := &configs[len(configs)-1]
	last.TLS, last.ClientAuth, last.Start = true, "cert", "oldest"
	path, auditing := withAudit(t)
	w := startWorld(t, testConfig(t, func(c *Config) { c.Analysts = grants }, configs...), auditing)
	for _, name := range streams {
		a := w.agent(name)
		a.packets(name+" 1", name+" 2")
		a.acked(2)
	}

	readers := map[string]*tls.Config{
		"alice": w.as("alice"), "bob": w.as("bob"), "carol": w.as("carol"), "dave": w.as("dave"), "mallory": w.as("mallory"),
	}
	for what, cert := range badAnalysts(t, w.ca) {
		readers[what] = w.with(cert)
	}
	type visit struct {
		what string
		*analyst
	}
	var inside []visit
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for who, config := range readers {
			config = config.Clone()
			config.MinVersion, config.MaxVersion = version, version
			for name, patterns := range listeners {
				what := fmt.Sprintf("%s at %s (TLS %x)", who, name, version)
				r := w.visit(w.address(name), config)
				if got := may(who, patterns, streams); len(got) > 0 {
					r.wantAll(what, got)
					inside = append(inside, visit{what, r})
				} else if who == "alice" || who == "dave" && (name == "all" || name == "as") {
					inside = append(inside, visit{what, r}) // streams may come that are for them
				} else {
					r.stopped(what, version)
				}
			}
			for _, stream := range streams {
				what := fmt.Sprintf("%s at the port of %s (TLS %x)", who, stream, version)
				r := w.visit(w.address("each", stream), config)
				if got := may(who, []string{stream}, streams); len(got) > 0 {
					r.wantAll(what, got)
					inside = append(inside, visit{what, r})
				} else {
					r.stopped(what, version)
				}
			}
		}
	}
	w.audited(path, "bob", func(e audit.Entry) bool {
		return e.Event == audit.ReadBegun && e.Analyst == "bob" && e.Listener == "all" && slices.Equal(e.Streams, []string{"s1/a", "s1/b"})
	})
	w.audited(path, "mallory", func(e audit.Entry) bool {
		return e.Event == audit.ReadRefused && e.Analyst == "mallory" && strings.Contains(e.Reason, "not in the configuration")
	})
	w.audited(path, "dave", func(e audit.Entry) bool { return e.Event == audit.ReadRefused && e.Analyst == "dave" })
	w.audited(path, "a sensor", func(e audit.Entry) bool {
		return e.Event == audit.ReadRefused && e.Analyst == "" && strings.Contains(e.Reason, "poip://sensor/")
	})

	var ends sync.WaitGroup
	for _, v := range inside {
		ends.Go(func() { v.refused(v.what + ", after its packets") })
	}
	w.stop()
	ends.Wait()
	w.audited(path, "what alice got", func(e audit.Entry) bool {
		return e.Event == audit.ReadEnded && e.Analyst == "alice" && e.Listener == "all" && *e.Packets == 6 && *e.Bytes > 0 && e.To.After(*e.From)
	})
}

// may are the packets that somebody should get at a listener.
func may(who string, patterns, streams []string) (out []string) {
	match := func(patterns []string, stream string) bool {
		name, _ := auth.ParseStreamName(stream)
		return slices.ContainsFunc(patterns, func(s string) bool {
			p, _ := auth.ParsePattern(s)
			return p.Match(name)
		})
	}
	i := slices.IndexFunc(grants, func(a AnalystConfig) bool { return a.Name == who })
	for _, stream := range streams {
		if i >= 0 && match(grants[i].Streams, stream) && match(patterns, stream) {
			out = append(out, stream+" 1", stream+" 2")
		}
	}
	return out
}

// wantAll reads as many packets, which have to be just these.
func (a *analyst) wantAll(what string, want []string) {
	a.t.Helper()
	a.header()
	got := a.read(len(want))
	slices.Sort(got)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		a.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// badAnalysts are certificates that open no listener.
func badAnalysts(t *testing.T, ca *poiptest.CA) map[string]*tls.Certificate {
	const alice = "poip://analyst/alice"
	return map[string]*tls.Certificate{
		"nobody":         nil,
		"a sensor":       certificate(ca, nil, "poip://sensor/s1"),
		"a sensor alice": certificate(ca, nil, "poip://sensor/alice"),
		"a relay":        certificate(ca, nil, "poip://relay/alice"),
		"two names":      certificate(ca, nil, alice, "poip://analyst/bob"),
		"two roles":      certificate(ca, nil, alice, "poip://sensor/alice"),
		"upper case":     certificate(ca, nil, "poip://analyst/Alice"),
		"a slash":        certificate(ca, nil, alice+"/"),
		"an escape":      certificate(ca, nil, "poip://analyst/%61lice"),
		"a common name":  certificate(ca, func(c *x509.Certificate) { c.Subject.CommonName = "alice"; c.DNSNames = []string{"alice"} }),
		"another CA":     certificate(poiptest.NewCA(t), nil, alice),
		"its own CA":     certificate(ca, func(c *x509.Certificate) { c.IsCA = true }, alice),
		"for servers":    certificate(ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, alice),
		"an expired one": certificate(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, alice),
		"not valid yet": certificate(ca, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Hour)
			c.NotAfter = time.Now().Add(2 * time.Hour)
		}, alice),
		"nobody in person": certificate(ca, nil, "poip://analyst/"),
	}
}

// TestAnalystsAreNoAgents: a certificate of an analyst sends nothing.
func TestAnalystsAreNoAgents(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*"))
	config := w.as("alice")
	config.NextProtos, config.MinVersion = []string{"poip/1"}, tls.VersionTLS13
	conn, err := tls.Dial("tcp", w.tcp.Addr().String(), config)
	if err == nil {
		conn.Write(wire.AppendHello(nil, greeting1("alice/eth0")))
		conn.SetReadDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(conn); err == nil || len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		conn.Close()
	}
	if len(w.Streams()) != 0 {
		t.Errorf("it has made %+v", w.Streams())
	}
}

// TestUngrantedStreamsDecideNothing: the link type that an analyst gets is that
// of its own streams. Without the subscriber in lead, it is that of the others.
func TestUngrantedStreamsDecideNothing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*"))
	w.agent("s0/raw", func(h *wire.Hello) { h.LinkType = 101 }).packets("raw")
	a := w.agent("s1/a")
	a.packets("one")
	a.acked(1)
	r := w.visit(w.address("all"), w.as("bob"))
	if _, link := r.header(); link != pcap.LinkEthernet {
		t.Errorf("link type %d", link)
	}
	r.want("one")
	w.agent("s2/late").packets("not for bob") // nor is one that comes later
	w.agent("s1/late").packets("for bob")
	r.want("for bob")
}

// TestAReloadTakesGrantsAndGivesThem: at once, and nobody else notices. Without
// regrant, who has lost a stream goes on reading it.
func TestAReloadTakesGrantsAndGivesThem(t *testing.T) {
	path, auditing := withAudit(t)
	w := startWorld(t, testConfig(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*")), auditing)
	s1, s2 := w.agent("s1/a"), w.agent("s2/a")
	s1.packets("s1 first")
	s2.packets("s2 first")
	s1.acked(1)
	s2.acked(1)
	alice, bob := w.visit(w.address("all"), w.as("alice")), w.visit(w.address("all"), w.as("bob"))
	alice.wantAll("alice", []string{"s1 first", "s2 first"})
	bob.wantAll("bob", []string{"s1 first"})

	change := func(f func([]AnalystConfig)) {
		t.Helper()
		next := w.cfg
		next.Analysts = slices.Clone(grants)
		f(next.Analysts)
		if err := w.Reload(next); err != nil {
			t.Fatal(err)
		}
	}
	change(func(a []AnalystConfig) { a[1].Streams = []string{"s1/*", "s2/*"} }) // bob gets more
	bob.want("s2 first")
	s2.packets("s2 second")
	bob.want("s2 second")
	alice.want("s2 second")

	change(func(a []AnalystConfig) { a[1].Streams = []string{"s2/*"} }) // and loses s1
	bob.ends()
	s1.packets("s1 second")
	alice.want("s1 second")
	bob = w.visit(w.address("all"), w.as("bob"))
	bob.wantAll("bob, without s1", []string{"s2 first", "s2 second"})

	change(func(a []AnalystConfig) { a[1].Name = "somebody-else" })
	bob.ends()
	w.visit(w.address("all"), w.as("bob")).refused("bob, who is gone")
	s1.packets("s1 third")
	alice.want("s1 third")

	e := w.audited(path, "the change", func(e audit.Entry) bool {
		return e.Event == audit.ConfigChanged && slices.Contains(e.Keys, "analyst.bob")
	})
	if !slices.Equal(e.Keys, []string{"analyst.bob", "analyst.somebody-else"}) {
		t.Errorf("the keys that changed: %q", e.Keys)
	}
	w.audited(path, "the end", func(e audit.Entry) bool {
		return e.Event == audit.ReadEnded && e.Analyst == "bob" && *e.Packets == 3 && e.Reason == "a stream is no longer granted"
	})
}

// TestTicketsDoNotOutliveGrants: a session that is resumed is looked at like a
// new one. It fails if what tlsOf adds stands in VerifyPeerCertificate, which is
// not called then, and countIn does not look once more.
func TestTicketsDoNotOutliveGrants(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*"))
	a := w.agent("s1/a")
	a.packets("one")
	a.acked(1)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if err := w.Reload(w.cfg); err != nil {
			t.Fatal(err)
		}
		config := w.as("bob")
		config.MaxVersion, config.ClientSessionCache = version, tls.NewLRUClientSessionCache(4)
		for i := range 2 {
			r := w.visit(w.address("all"), config)
			r.wantAll("bob", []string{"one"})
			if resumed := r.conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i == 1) {
				t.Errorf("TLS %x, connection %d: resumed is %t", version, i, resumed)
			}
			r.conn.Close()
		}
		next := w.cfg
		next.Analysts = slices.Delete(slices.Clone(grants), 1, 2)
		if err := w.Reload(next); err != nil {
			t.Fatal(err)
		}
		w.visit(w.address("all"), config).refused("bob with a ticket")
	}
}

// TestAnalystsConnections are bounded: without countIn, the third gets in.
func TestAnalystsConnections(t *testing.T) {
	path, auditing := withAudit(t)
	few := slices.Clone(grants)
	few[1].MaxConnections = 2
	w := startWorld(t, testConfig(t, func(c *Config) { c.Analysts = few }, shown("all", "*/*"), shown("too", "*/*")), auditing)
	w.agent("s1/a")
	one, two := w.visit(w.address("all"), w.as("bob")), w.visit(w.address("too"), w.as("bob"))
	one.header()
	two.header()
	w.visit(w.address("all"), w.as("bob")).refused("the third")
	w.audited(path, "the third", func(e audit.Entry) bool {
		return e.Event == audit.ReadRefused && e.Analyst == "bob" && strings.Contains(e.Reason, "max_connections")
	})
	w.visit(w.address("all"), w.as("alice")).header()
	reset(one.conn)
	w.eventually("a place", func() bool {
		r := w.visit(w.address("all"), w.as("bob"))
		defer reset(r.conn)
		r.conn.SetReadDeadline(time.Now().Add(patience))
		_, err := r.r.Peek(pcap.FileHeaderLen)
		return err == nil
	})
}

// reset ends a connection so that the relay notices at once: the end of an
// analyst's input alone means nothing.
func reset(conn net.Conn) {
	conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
	conn.(*tls.Conn).NetConn().Close()
}

// TestARevokedAnalystIsSentHome: judged by whoever is asked whether a
// certificate stands, at the handshake and while it lasts.
func TestARevokedAnalystIsSentHome(t *testing.T) {
	var mu sync.Mutex
	revoked := ""
	standing := func(o *Options) {
		o.Standing = func(chain []*x509.Certificate) error {
			mu.Lock()
			defer mu.Unlock()
			if name, err := auth.AnalystOf(chain[0]); err == nil && string(name) == revoked {
				return errors.New("revoked")
			}
			return nil
		}
	}
	w := startWorld(t, testConfig(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*")), standing)
	a := w.agent("s1/a")
	alice, bob := w.visit(w.address("all"), w.as("alice")), w.visit(w.address("all"), w.as("bob"))
	alice.header()
	bob.header()
	mu.Lock()
	revoked = "bob"
	mu.Unlock()
	w.TrustChanged(nil)
	bob.ends()
	w.visit(w.address("all"), w.as("bob")).refused("bob, revoked")
	a.packets("one")
	alice.want("one")
}

// TestDenyWins over allow, for who comes and who is there.
func TestDenyWins(t *testing.T) {
	denied := func(l *ListenerConfig) { l.Deny = []string{"127.0.0.1/32"} }
	w := newWorld(t, nil, plain("p"), plain("q", denied))
	w.agent("s/c")
	r := w.analyst(w.address("p"))
	r.header()
	w.analyst(w.address("q")).refused("who is denied")
	next := w.cfg
	next.Listeners = []ListenerConfig{plain("p", denied), plain("q", denied)}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	r.ends()
}

// TestHostileNamesAreAudited: what strangers call themselves is in the log as
// text.
func TestHostileNamesAreAudited(t *testing.T) {
	path, auditing := withAudit(t)
	w := startWorld(t, testConfig(t, func(c *Config) { c.Analysts = grants }, shown("all", "*/*")), auditing)
	for _, name := range []string{"%1b[31mroot", "a%0ab", "<script>", "..", "%00", "alice%22,%22event%22:%22x"} {
		w.visit(w.address("all"), w.with(certificate(w.ca, func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "poip", Opaque: "//analyst/" + unescape(t, name)}}
		}))).refused(name)
	}
	w.audited(path, "the names", func(e audit.Entry) bool {
		return e.Event == audit.ReadRefused && strings.Contains(e.Reason, "script")
	})
	w.stop()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(text, func(c byte) bool { return c != '\n' && (c < ' ' || c > '~') || c == '<' }); i >= 0 {
		t.Errorf("byte %#x in %q", text[i], text)
	}
	if strings.ContainsAny(w.logs.String(), "\x1b\x00") {
		t.Error("a stranger's bytes are in the log as they are")
	}
}

func unescape(t *testing.T, s string) string {
	t.Helper()
	out, err := url.PathUnescape(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}
