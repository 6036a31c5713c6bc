package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Keypair is a certificate and its key, in use. It can be loaded anew while
// others use it.
type Keypair struct {
	certFile, keyFile string // set once
	current           atomic.Pointer[tls.Certificate]
}

// LoadKeypair reads a certificate and its key from PEM files. A key that
// others than its owner can read is refused.
func LoadKeypair(certFile, keyFile string) (*Keypair, error) {
	pair, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	k := &Keypair{certFile: certFile, keyFile: keyFile}
	k.current.Store(pair)
	return k, nil
}

// Reload reads the files again. When they are bad, or the certificate is not
// valid now, the old one stays.
func (k *Keypair) Reload() error {
	pair, err := loadPair(k.certFile, k.keyFile)
	if err != nil {
		return err
	}
	if err := checkTime(pair.Leaf, time.Now()); err != nil {
		return fmt.Errorf("load %s: %w", k.certFile, err)
	}
	k.current.Store(pair)
	return nil
}

// Certificate is the pair in use, with its Leaf.
func (k *Keypair) Certificate() *tls.Certificate { return k.current.Load() }

// NotAfter is when the certificate in use expires.
func (k *Keypair) NotAfter() time.Time { return k.Certificate().Leaf.NotAfter }

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
