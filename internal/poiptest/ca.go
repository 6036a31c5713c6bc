package poiptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
)

// CA is a throw-away authority with a relay's certificate for localhost.
type CA struct {
	Dir   string // as poip-relay init makes it
	Relay *certs.Keypair
	Pool  *x509.CertPool // the authority alone
	tb    testing.TB
}

// NewCA makes an authority that lasts as long as the test.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "relay")
	must(tb, certs.Init(dir, "relay.test", nil))
	relay, err := certs.LoadKeypair(filepath.Join(dir, certs.RelayCert), filepath.Join(dir, certs.RelayKey))
	must(tb, err)
	pool, err := certs.LoadAuthorities(filepath.Join(dir, certs.CAFile))
	must(tb, err)
	return &CA{Dir: dir, Relay: relay, Pool: pool, tb: tb}
}

// Sensor issues a sensor's identity and returns its folder, an agent's data.
func (ca *CA) Sensor(name string) string {
	ca.tb.Helper()
	dir := filepath.Join(ca.tb.TempDir(), name)
	must(ca.tb, certs.IssueSensor(ca.Dir, auth.SensorName(name), dir))
	return dir
}

// IntakeTLS is the relay's side of agents' connections.
func (ca *CA) IntakeTLS() *tls.Config { return certs.IntakeTLS(ca.Relay, ca.Pool) }

// AnalystTLS is the relay's side of analysts' connections, without client certificates.
func (ca *CA) AnalystTLS() *tls.Config { return certs.AnalystTLS(ca.Relay, nil) }

// AgentTLS is the side of a sensor that was just issued.
func (ca *CA) AgentTLS(sensor string) *tls.Config {
	ca.tb.Helper()
	dir := ca.Sensor(sensor)
	pair, err := certs.LoadKeypair(filepath.Join(dir, certs.SensorCert), filepath.Join(dir, certs.SensorKey))
	must(ca.tb, err)
	return certs.AgentTLS(pair, ca.Pool, "")
}

// Forge makes what a sensor must not come with: a certificate for branch-7,
// changed before it is signed by this authority; or by its own key where the
// change makes it an authority.
func (ca *CA) Forge(key crypto.Signer, change func(*x509.Certificate)) *tls.Certificate {
	ca.tb.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(7),
		Subject:               pkix.Name{CommonName: "branch-7"},
		URIs:                  []*url.URL{auth.SensorURI("branch-7")},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	change(template)
	authority, err := tls.LoadX509KeyPair(filepath.Join(ca.Dir, certs.CAFile), filepath.Join(ca.Dir, certs.CAKey))
	must(ca.tb, err)
	parent, signer := authority.Leaf, authority.PrivateKey
	if template.IsCA {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(ca.tb, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// NewKey makes a key such as our own certificates have.
func NewKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	return key
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
