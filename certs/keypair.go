package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"
)

// Keypair is a certificate and its key.
type Keypair struct{ pair *tls.Certificate }

// LoadKeypair reads a certificate and its key from PEM files. A key that
// others than its owner can read is refused.
func LoadKeypair(certFile, keyFile string) (*Keypair, error) {
	pair, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &Keypair{pair}, nil
}

// Certificate is the pair, with its Leaf.
func (k *Keypair) Certificate() *tls.Certificate { return k.pair }

// NotAfter is when the certificate expires.
func (k *Keypair) NotAfter() time.Time { return k.pair.Leaf.NotAfter }

// Valid says why the certificate is of no use now.
func (k *Keypair) Valid() error { return checkTime(k.pair.Leaf, time.Now()) }

func (k *Keypair) forServer(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return k.Certificate(), nil
}

func (k *Keypair) forClient(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return k.Certificate(), nil
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	key, err := readSecret(keyFile)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("load %s with %s: %w", certFile, keyFile, err)
	}
	return &pair, nil
}

// LoadAuthorities reads the authorities that a peer's certificate has to come from.
func LoadAuthorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("load authorities: no certificate in %s; it is the relay's %s", file, CAFile)
	}
	return pool, nil
}
