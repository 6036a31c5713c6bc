package poiptest

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"testing"

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

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
