package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/transport"
	"poip/internal/wire"
)

// A forgery is a client's certificate with which nobody may get a stream.
type forgery struct {
	what string
	cert *tls.Certificate
}

// forgeries are signed by the relay's own authority where nothing else is said.
func forgeries(t *testing.T, ca *poiptest.CA) []forgery {
	t.Helper()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	key, other := poiptest.NewKey(t), poiptest.NewCA(t)
	var all []forgery
	add := func(what string, by *poiptest.CA, key crypto.Signer, change func(*x509.Certificate)) {
		all = append(all, forgery{what, by.Forge(key, change)})
	}
	uris := func(uris ...*url.URL) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = uris }
	}
	raw := func(texts ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			c.ExtraExtensions = []pkix.Extension{rawNames(t, texts...)}
		}
	}
	mine := auth.SensorURI("branch-7")
	all = append(all, forgery{"none", &tls.Certificate{}})
	add("another authority", other, key, func(*x509.Certificate) {})
	add("self-signed", ca, key, func(c *x509.Certificate) { c.IsCA = true })
	add("for servers", ca, key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	add("for nothing", ca, key, func(c *x509.Certificate) { c.ExtKeyUsage = nil })
	add("expired", ca, key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	add("not yet valid", ca, key, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	add("RSA-1024", ca, weak, func(*x509.Certificate) {})
	add("another kind of name", ca, key, uris(&url.URL{Scheme: "poip", Host: "relay", Path: "/branch-7"}))
	add("an analyst", ca, key, uris(&url.URL{Scheme: "poip", Host: "analyst", Path: "/branch-7"}))
	add("two names", ca, key, uris(mine, auth.SensorURI("branch-8")))
	add("one name twice", ca, key, uris(mine, mine))
	add("a subject only", ca, key, uris())
	add("a DNS name", ca, key, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"branch-7"} })
	for what, text := range map[string]string{
		"upper case": "poip://sensor/Branch-7", "scheme in upper case": "POIP://sensor/branch-7", "host in upper case": "poip://Sensor/branch-7",
		"a trailing dot": "poip://sensor./branch-7", "a slash behind": "poip://sensor/branch-7/", "a port": "poip://sensor:1/branch-7",
		"a query": "poip://sensor/branch-7?", "a user": "poip://x@sensor/branch-7", "escaped": "poip://sensor/branch%2D7",
		"NUL": "poip://sensor/branch-7\x00.example", "a path upward": "poip://sensor/../branch-7", "a space": "poip://sensor/ branch-7",
		"Unicode": "poip://sensor/br\u0430nch-7", "a control byte": "poip://sensor/branch-7\x1b[31m", "too long": "poip://sensor/" + strings.Repeat("a", 64),
		"no name": "poip://sensor/",
	} {
		add(what, ca, key, raw(text))
	}
	return all
}

// rawNames is a subject alternative name with URIs of any bytes.
func rawNames(t *testing.T, texts ...string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, text := range texts {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(text)})
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}
}

// No bad certificate opens a stream at the real relay, over TCP or QUIC, at the
// first try or at the second, for which a client would have a session to resume.
// (That tickets given for better certificates, or by more lenient relays, do not
// help either is proven in internal/transport and certs.) It fails when
// certs.IntakeTLS does not set VerifyConnection, or asks for no certificate.
func TestBadCertificatesOpenNoStream(t *testing.T) {
	ca := poiptest.NewCA(t)
	w := &world{t: t, dir: t.TempDir()}
	r := w.startRelay(strings.Replace(w.relayTOML("", listenerTOML{"plain", "", plainOldest}), w.path("relay"), ca.Dir, 1))
	for _, f := range forgeries(t, ca) {
		for _, scheme := range []string{"tls", "quic"} {
			cfg := ca.AgentTLS("other")
			cfg.ServerName = "relay.test"
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.cert, nil }
			for _, try := range []string{"fresh", "again"} {
				if answer := attempt(t, cfg, r.intake(scheme)); answer != "" {
					t.Errorf("%s, %s, %s: the relay answers %q", f.what, scheme, try, answer)
				}
			}
		}
	}
	if streams := r.get("/api/v1/streams"); strings.Contains(streams, "branch-7") || r.metric("poip_relay_received_packets_total") != 0 {
		t.Errorf("a stream was made: %s", streams)
	}
	for _, line := range strings.Split(r.Log(), "\n") {
		if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' }) {
			t.Errorf("the log holds raw bytes of a certificate: %q", line)
		}
	}
	// The same way in is open for who may come.
	good := ca.AgentTLS("branch-7")
	good.ServerName = "relay.test"
	if answer := attempt(t, good, r.intake("tls")); answer == "" {
		t.Error("a good certificate is refused, so nothing was proven")
	}
}

// attempt says hello and a packet, and returns the bytes that the relay answers.
func attempt(t *testing.T, cfg *tls.Config, relayURL string) string {
	t.Helper()
	endpoint, err := transport.ParseEndpoint(relayURL)
	if err != nil {
		t.Fatal(err)
	}
	dialer := &transport.Dialer{TLS: cfg.Clone()}
	defer dialer.Close()
	conn, err := dialer.Open(t.Context(), endpoint)
	if err != nil {
		return ""
	}
	defer conn.Abort()
	conn.Write(wire.AppendHello(nil, wire.Hello{Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535, Stream: "branch-7/eth0"}))
	conn.Flush()
	conn.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	n, err := conn.Read(b)
	if err != nil {
		n = 0
	}
	return string(b[:n])
}
