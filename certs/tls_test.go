package certs_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/poiptest"
)

// socketPair is both ends of a connection that buffers: a server that resumes
// a session writes at the same time as its client.
func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	b, err = net.Dial("tcp", ln.Addr().String())
	must(t, err)
	a, err = ln.Accept()
	must(t, err)
	return a, b
}

// handshake runs both ends, and a byte after it: what TLS 1.3 servers think
// of a client shows only then.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := socketPair(t)
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		served <- err
		a.Close()
	}()
	conn := tls.Client(b, client)
	_, err := conn.Read(make([]byte, 1))
	state := conn.ConnectionState()
	b.Close()
	if e := <-served; e != nil {
		return state, e
	}
	return state, err
}

func withCert(cfg *tls.Config, cert *tls.Certificate) *tls.Config {
	cfg = cfg.Clone()
	cfg.ServerName = "relay.test"
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return cfg
}

func TestIntakeTakesOurSensorsOnly(t *testing.T) {
	ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
	key := poiptest.NewKey(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	same := func(*x509.Certificate) {}
	for _, c := range []struct {
		what string
		cert *tls.Certificate
		word string // of the reason; empty: taken
	}{
		{"a sensor's", ca.Forge(key, same), ""},
		{"RSA-2048", ca.Forge(strong, same), ""},
		{"none", &tls.Certificate{}, "didn't provide a certificate"},
		{"another authority", other.Forge(key, same), "unknown authority"},
		{"self-signed", ca.Forge(key, func(c *x509.Certificate) { c.IsCA = true }), "unknown authority"},
		{"for servers", ca.Forge(key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "incompatible key usage"},
		{"for anything", ca.Forge(key, func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "not for clients"},
		{"expired", ca.Forge(key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		{"not yet valid", ca.Forge(key, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not yet valid"},
		{"another kind of name", ca.Forge(key, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "poip", Host: "relay", Path: "/branch-7"}} }), "poip://sensor/"},
		{"a second name", ca.Forge(key, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "more than one"},
		{"a subject only", ca.Forge(key, func(c *x509.Certificate) { c.URIs = nil }), "poip://sensor/"},
		{"RSA-1024", ca.Forge(weak, same), "too weak"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := handshake(t, ca.IntakeTLS(), withCert(ca.AgentTLS("other"), c.cert))
			if c.word == "" {
				must(t, err)
				return
			}
			wants(t, err, c.word)
		})
	}
}

func TestIntakeTakesOurProtocolOnly(t *testing.T) {
	ca := poiptest.NewCA(t)
	for what, change := range map[string]func(*tls.Config){
		"TLS 1.2":          func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"no protocol":      func(c *tls.Config) { c.NextProtos = nil },
		"another protocol": func(c *tls.Config) { c.NextProtos = []string{"h2"} },
	} {
		client := ca.AgentTLS("branch-7")
		client.ServerName = "relay.test"
		change(client)
		if _, err := handshake(t, ca.IntakeTLS(), client); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

func TestAgentTrustsItsRelayOnly(t *testing.T) {
	ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
	client := func(name string) *tls.Config {
		cfg := ca.AgentTLS("branch-7")
		cfg.ServerName = name
		return cfg
	}
	_, err := handshake(t, ca.IntakeTLS(), client("relay.test"))
	must(t, err)
	_, err = handshake(t, ca.IntakeTLS(), client("::1"))
	must(t, err)
	if _, err := handshake(t, ca.IntakeTLS(), client("elsewhere.test")); err == nil {
		t.Error("trusts a relay of another name")
	}
	if _, err := handshake(t, other.IntakeTLS(), client("relay.test")); err == nil {
		t.Error("trusts a relay of another authority")
	}
	sensor := ca.IntakeTLS()
	sensor.GetCertificate = nil
	sensor.Certificates = []tls.Certificate{*ca.Forge(poiptest.NewKey(t), func(c *x509.Certificate) { c.DNSNames = []string{"relay.test"} })}
	if _, err := handshake(t, sensor, client("relay.test")); err == nil {
		t.Error("trusts a sensor as a relay")
	}
	old := ca.IntakeTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := handshake(t, old, client("relay.test")); err == nil {
		t.Error("speaks TLS 1.2")
	}
}

// An analyst's tool may ask for any name, or none, and any protocol, or none.
func TestAnalystsAreServedAsTheirToolsAsk(t *testing.T) {
	ca := poiptest.NewCA(t)
	for what, change := range map[string]func(*tls.Config){
		"a known name":   func(c *tls.Config) { c.ServerName = "relay.test" },
		"an unknown one": func(c *tls.Config) { c.ServerName = "who.knows" },
		"an address":     func(c *tls.Config) { c.ServerName = "192.0.2.9" },
		"no name":        func(*tls.Config) {},
		"a protocol":     func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} },
		"TLS 1.2":        func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
	} {
		client := &tls.Config{InsecureSkipVerify: true}
		change(client)
		if _, err := handshake(t, ca.AnalystTLS(), client); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAnalystsGetAuthenticatedEncryptionOnly(t *testing.T) {
	ca := poiptest.NewCA(t)
	old := func(change func(*tls.Config)) *tls.Config {
		cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12}
		change(cfg)
		return cfg
	}
	if _, err := handshake(t, ca.AnalystTLS(), old(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 })); err == nil {
		t.Error("TLS 1.1 was taken")
	}
	aead := map[uint16]bool{}
	for _, id := range ca.AnalystTLS().CipherSuites {
		aead[id] = true
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if aead[suite.ID] || suite.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		if _, err := handshake(t, ca.AnalystTLS(), old(func(c *tls.Config) { c.CipherSuites = []uint16{suite.ID} })); err == nil {
			t.Errorf("%s was taken", suite.Name)
		}
	}
	for _, id := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		_, err := handshake(t, ca.AnalystTLS(), old(func(c *tls.Config) { c.CipherSuites = []uint16{id} }))
		must(t, err)
	}
}

func TestAnalystsShowCertificatesWhereAsked(t *testing.T) {
	ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
	key := poiptest.NewKey(t)
	server := certs.AnalystTLS(ca.Relay, ca.Pool)
	client := func(cert *tls.Certificate) *tls.Config { return withCert(&tls.Config{RootCAs: ca.Pool}, cert) }
	_, err := handshake(t, server, client(ca.Forge(key, func(*x509.Certificate) {})))
	must(t, err)
	for what, cert := range map[string]*tls.Certificate{
		"none":              {},
		"another authority": other.Forge(key, func(*x509.Certificate) {}),
		"for servers":       ca.Forge(key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"for anything":      ca.Forge(key, func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
	} {
		if _, err := handshake(t, server, client(cert)); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

func TestFollowingServesWhatIsLoadedNow(t *testing.T) {
	ca, next := poiptest.NewCA(t), poiptest.NewCA(t)
	current := ca
	server := certs.Following(func() *tls.Config { return current.IntakeTLS() })
	// Sessions are resumed where the server lets them.
	old := withCert(ca.AgentTLS("branch-7"), ca.Forge(poiptest.NewKey(t), func(*x509.Certificate) {}))
	old.ClientSessionCache, old.InsecureSkipVerify = tls.NewLRUClientSessionCache(1), true
	fresh := next.AgentTLS("branch-7")
	fresh.InsecureSkipVerify = true // it is about what the server thinks

	for _, resumed := range []bool{false, true} {
		state, err := handshake(t, server, old)
		must(t, err)
		if state.DidResume != resumed {
			t.Errorf("resumed: %t, want %t", state.DidResume, resumed)
		}
	}
	_, err := handshake(t, server, fresh)
	wants(t, err, "unknown authority")

	current = next
	_, err = handshake(t, server, fresh)
	must(t, err)
	_, err = handshake(t, server, old) // with its ticket
	wants(t, err, "unknown authority")
}
