package certs

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/transport"
)

// aeadSuites are what analysts may use with TLS 1.2. Go's own list still
// holds CBC. TLS 1.3 has nothing else than AEAD.
var aeadSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// IntakeTLS is for a relay's side of agents' connections, over TCP and QUIC:
// TLS 1.3, our protocol by name, and a sensor's certificate from one of the
// authorities. What is checked in VerifyConnection holds for resumed sessions too.
func IntakeTLS(relay *Keypair, sensors *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{transport.ALPN},
		GetCertificate:              relay.forServer,
		ClientAuth:                  tls.RequireAndVerifyClientCert,
		ClientCAs:                   sensors,
		VerifyConnection:            verifySensor,
		DynamicRecordSizingDisabled: true,
	}
}

// AnalystTLS is for a relay's listeners: TLS 1.2 or later, whatever name the
// client asks for, no protocol names. With authorities in clients, a client
// has to show a certificate from one of them; nil asks for none.
func AnalystTLS(relay *Keypair, clients *x509.CertPool) *tls.Config {
	cfg := &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		CipherSuites:                aeadSuites,
		GetCertificate:              relay.forServer,
		DynamicRecordSizingDisabled: true,
	}
	if clients != nil {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = clients
		cfg.VerifyConnection = verifyClient
	}
	return cfg
}

// AgentTLS is for an agent: TLS 1.3, and a relay whose certificate comes from
// one of the authorities and is for name; where that is empty, for the host dialed.
func AgentTLS(sensor *Keypair, relays *x509.CertPool, name string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{transport.ALPN},
		ServerName:                  name,
		RootCAs:                     relays,
		GetClientCertificate:        sensor.forClient,
		DynamicRecordSizingDisabled: true,
	}
}

// Following makes a server's configuration that asks current at every
// handshake, so that what was loaded anew holds for whoever connects, or
// resumes a session, from then on.
func Following(current func() *tls.Config) *tls.Config {
	cfg := current()
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current(), nil }
	return cfg
}

func verifySensor(state tls.ConnectionState) error {
	if state.NegotiatedProtocol != transport.ALPN {
		return fmt.Errorf("client does not ask for protocol %s", transport.ALPN)
	}
	if err := verifyClient(state); err != nil {
		return err
	}
	_, err := auth.SensorOf(state.PeerCertificates[0])
	return err
}

// verifyClient is for what crypto/tls does not check, or not again when it
// resumes a session.
func verifyClient(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return errors.New("client has no verified certificate")
	}
	leaf := state.PeerCertificates[0]
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return errors.New("client's certificate is not for clients (extended key usage)")
	}
	if err := checkTime(leaf, time.Now()); err != nil {
		return err
	}
	return checkStrength(leaf)
}

func checkTime(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("certificate is valid from %s on; is the clock right?", cert.NotBefore.Format(time.RFC3339))
	case now.After(cert.NotAfter):
		return fmt.Errorf("certificate has expired on %s", cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// checkStrength takes keys of 112 bits of security or more; Go itself takes
// RSA from 1024 bits on.
func checkStrength(cert *x509.Certificate) error {
	if err := checkKey(cert.PublicKey); err != nil {
		return fmt.Errorf("certificate's %w", err)
	}
	return nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if key.N.BitLen() >= 2048 {
			return nil
		}
	}
	return errors.New("key is too weak: use ECDSA P-256, Ed25519 or RSA from 2048 bits on")
}
