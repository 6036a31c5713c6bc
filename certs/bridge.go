package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// BridgeFile leads from the new authority to the old one, between the steps.
const BridgeFile = "bridge.pem"

// bridgeTo signs the name and key of the authority that follows, in PEM.
func (a *authority) bridgeTo(next *authority) ([]byte, error) {
	template := &x509.Certificate{
		Subject:               next.cert.Subject,
		SubjectKeyId:          next.cert.SubjectKeyId,
		NotBefore:             next.cert.NotBefore,
		NotAfter:              a.cert.NotAfter,
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1, // an intermediate; which tells it from one
	}
	if template.NotAfter.After(next.cert.NotAfter) {
		template.NotAfter = next.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, next.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return encodeCert(der), nil
}

// loadBridge reads what leads from the newest authority to another that is
// trusted too; nothing, where none does.
func loadBridge(dir string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, BridgeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load bridge: %w", err)
	}
	chain, err := parseRoots(decodeCerts(text))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", filepath.Join(dir, BridgeFile), err)
	}
	roots, err := loadRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	if !bridges(chain[0], roots[0], roots[1:]) {
		return nil, nil // of a rotation that did not get further, or is over
	}
	return text, nil
}

// bridges says whether b is the word of one of the trusted authorities for root:
// its name and key, signed by that authority itself. A relay's intermediate is
// such a certificate too, for a key that the relay has; but nothing may be
// below what that signs, and so no authority can be made of it.
func bridges(b, root *x509.Certificate, trusted []*x509.Certificate) bool {
	return b.MaxPathLen >= 1 && time.Now().Before(b.NotAfter) &&
		KeyOf(b) == KeyOf(root) && bytes.Equal(b.RawSubject, root.RawSubject) &&
		slices.ContainsFunc(trusted, func(old *x509.Certificate) bool { return b.CheckSignatureFrom(old) == nil })
}

// believed takes out of an announcement the authorities to trust from here on,
// the newest first: each is trusted already, or there is a bridge to it from
// one that is. So whoever has taken a relay over cannot make its agents trust
// an authority of his own, unless he has the key of theirs.
func believed(ders [][]byte, trusted []*x509.Certificate) (roots []*x509.Certificate, err error) {
	announced, err := parseRoots(ders)
	if err != nil {
		return nil, err
	}
	for _, root := range announced {
		known := slices.ContainsFunc(trusted, root.Equal)
		if !known && root.CheckSignatureFrom(root) != nil {
			continue // a bridge
		}
		if !known && !slices.ContainsFunc(announced, func(b *x509.Certificate) bool { return bridges(b, root, trusted) }) {
			return nil, fmt.Errorf("none of the authorities that are trusted has signed %.80q: if the relay's operator says that it is good, copy the relay's %s here", root.Subject.CommonName, CAFile)
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("no authority")
	}
	return roots, nil
}
