package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// A pair on the disk is replaced in three steps, of which each is done or not:
// the new key is put beside the old one, the certificate is replaced, the key
// is replaced. So whoever dies, or looks, in between finds the certificate's
// key under one of two names.
const nextKey = ".next"

// replacePair replaces a certificate and its key, which need not be there.
func replacePair(root *os.Root, certFile, keyFile string, cert, key []byte) error {
	if err := settlePair(root, certFile, keyFile); err != nil {
		return err
	}
	if err := replace(root, file{keyFile + nextKey, key, secretMode}); err != nil {
		return err
	}
	if err := replace(root, file{certFile, cert, publicMode}); err != nil {
		return err
	}
	return settlePair(root, certFile, keyFile)
}

// settlePair does the last step of replacing, where that is due.
func settlePair(root *os.Root, certFile, keyFile string) error {
	path := func(name string) string { return filepath.Join(root.Name(), name) }
	_, err := readPair(path(certFile), path(keyFile)+nextKey)
	if err != nil {
		return nil // nothing is waiting, or it was never taken into use
	}
	if err := root.Rename(keyFile+nextKey, keyFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("put %s in place: %w", path(keyFile), err)
	}
	return syncFolder(root)
}

// loadPair reads a pair, also while it is being replaced.
func loadPair(certFile, keyFile string) (pair *tls.Certificate, err error) {
	for range 3 { // it was replaced between our two looks
		if pair, err = readPair(certFile, keyFile); err == nil {
			return pair, nil
		}
		if next, e := readPair(certFile, keyFile+nextKey); e == nil {
			return next, nil
		}
	}
	return nil, err
}

func readPair(certFile, keyFile string) (*tls.Certificate, error) {
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
	roots, err := loadRoots(file)
	if err != nil {
		return nil, err
	}
	return poolOf(roots), nil
}

// loadRoots reads authorities, the newest first.
func loadRoots(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load authorities: %w", err)
	}
	roots, err := parseRoots(decodeCerts(text))
	if err != nil {
		return nil, fmt.Errorf("load authorities: %s: %w; it is the relay's %s", file, err, CAFile)
	}
	return roots, nil
}

// parseRoots takes authorities only, and one at least.
func parseRoots(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 {
		return nil, errors.New("no certificate")
	}
	var roots []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return nil, fmt.Errorf("the certificate of %.80q is none of an authority", cert.Subject.CommonName)
		}
		roots = append(roots, cert)
	}
	return roots, nil
}

func poolOf(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}
