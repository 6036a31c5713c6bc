package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/transport"
)

// WithJoining makes the configuration of ports where sensors join, too. A
// client that asks for joining, and for nothing else, gets what joining
// returns at the time; everybody else is held to intake.
func WithJoining(intake *tls.Config, joining func() *tls.Config) *tls.Config {
	cfg := intake.Clone()
	otherwise := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Equal(hello.SupportedProtos, []string{transport.ALPNJoin}) {
			return joining(), nil
		}
		if otherwise == nil {
			return nil, nil
		}
		return otherwise(hello)
	}
	return cfg
}

// JoiningTLS is for a relay's side of joining: TLS 1.3, no certificate asked
// for, no session resumed. The relay shows its chain up to the roots, for the
// sensor knows nothing but the hash of a root's key.
func JoiningTLS(relay *Keypair, roots [][]byte) *tls.Config {
	shown := *relay.Certificate()
	shown.Certificate = slices.Concat(shown.Certificate, roots)
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{transport.ALPNJoin},
		Certificates:                []tls.Certificate{shown},
		SessionTicketsDisabled:      true,
		VerifyConnection:            verifyJoining,
		DynamicRecordSizingDisabled: true,
	}
}

func verifyJoining(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != transport.ALPNJoin {
		return fmt.Errorf("client does not ask for protocol %s", transport.ALPNJoin)
	}
	return nil
}

// JoiningTLS is for sensors that join.
func (t *Trust) JoiningTLS() *tls.Config { return JoiningTLS(t.relay, t.Authorities()) }

// Pin is that of the newest authority that the relay's own certificate leads to.
func (t *Trust) Pin() (pin auth.Pin, err error) {
	chain, err := parseChain(t.relay.Certificate().Certificate)
	if err != nil {
		return pin, err
	}
	for _, root := range t.roots {
		if comesFrom(root, chain) {
			return PinOf(root), nil
		}
	}
	return pin, errors.New("the relay's certificate comes from none of its authorities: sensors cannot verify it by a token")
}

// PinOf is the pin of an authority.
func PinOf(ca *x509.Certificate) auth.Pin { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }

// joinTLS is for a sensor that has nothing but a token. Whoever is at the
// other end has proven the token's pin when the handshake ends.
func joinTLS(t auth.Token, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{transport.ALPNJoin},
		InsecureSkipVerify: true, // #nosec G402 -- we know one root by its hash; VerifyConnection finds it and verifies all that is skipped here
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := verifyPinned(state.PeerCertificates, t, now())
			return err
		},
		DynamicRecordSizingDisabled: true,
	}
}

// verifyPinned finds the root that the token names in what a relay shows, and
// verifies the relay's certificate by that root alone.
func verifyPinned(shown []*x509.Certificate, t auth.Token, now time.Time) (root *x509.Certificate, err error) {
	if len(shown) == 0 {
		return nil, errors.New("the relay shows no certificate")
	}
	i := slices.IndexFunc(shown[1:], func(c *x509.Certificate) bool { return c.IsCA && PinOf(c) == t.Pin })
	if i < 0 {
		return nil, fmt.Errorf("this is not the relay that made the token: it does not have the CA sha256:%s; "+
			"nothing was told to it; check the address, or make a new token on the relay", base64.RawURLEncoding.EncodeToString(t.Pin[:]))
	}
	root = shown[1+i]
	made := shown[0].NotBefore
	if root.NotBefore.After(made) {
		made = root.NotBefore
	}
	at := now
	if at.Before(made) {
		at = made // whether the clock is to blame is said below, of a relay that is genuine
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: t.Relay, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	options.Roots.AddCert(root)
	for _, c := range shown[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := shown[0].Verify(options); err != nil {
		return nil, fmt.Errorf("the relay's certificate does not hold: %v; nothing was told to it", err) // not %w: what to do differs from a dial's
	}
	if now.Before(made) {
		return nil, clockError{now, made}
	}
	return root, nil
}

// clockError is of a sensor whose clock has not been set.
type clockError struct{ now, made time.Time }

func (e clockError) Error() string {
	return fmt.Sprintf("this machine's clock is wrong: it says %s, and the relay's certificate was made at %s; set the clock (NTP, or date -s) and try again; the token is still good",
		e.now.UTC().Format(time.RFC3339), e.made.UTC().Format(time.RFC3339))
}
