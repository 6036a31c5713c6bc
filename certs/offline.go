package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A CA may be kept where no relay is. Then the relay signs with an
// intermediate, which the CA has signed and whose end comes sooner. Whoever
// steals the relay's keys can issue certificates until the intermediate ends,
// or the CA's owner ends the trust in it; the CA's own key he has not.

// issuerLife is how long an intermediate lasts. Certificates end with it.
const issuerLife = 2 * 365 * 24 * time.Hour

// InitOffline is Init, but for the CA: its key and certificate go to the
// folder offline, to be taken away, and dir gets an intermediate.
func InitOffline(dir, offline, name string, hosts []string) error {
	if inside(dir, offline) {
		return fmt.Errorf("make authority: %s is within %s: choose a folder that can be taken away", offline, dir)
	}
	template, err := relayTemplate(name, hosts)
	if err != nil {
		return err
	}
	ca, err := newAuthority(name)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	issuer, err := ca.delegate()
	if err != nil {
		return err
	}
	relay, err := issuer.issue(template, RelayLife)
	if err != nil {
		return fmt.Errorf("make relay certificate: %w", err)
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	issuerKey, err := encodeKey(issuer.key)
	if err != nil {
		return fmt.Errorf("make intermediate: %w", err)
	}
	kept := []file{{CAFile, ca.roots, publicMode}, {CAKey, caKey, secretMode}}
	if err := fill(offline, kept); err != nil {
		return err
	}
	err = fill(dir, []file{
		{CAFile, ca.roots, publicMode},
		{IssuerCert, issuer.chain, publicMode},
		{IssuerKey, issuerKey, secretMode},
		{RelayCert, relay.cert, publicMode},
		{RelayKey, relay.key, secretMode},
	})
	if err != nil {
		return unfill(offline, kept, err)
	}
	return nil
}

// inside says whether b is a or within it.
func inside(a, b string) bool {
	absolute, err := filepath.Abs(a)
	if err != nil {
		return false
	}
	other, err := filepath.Abs(b)
	if err != nil {
		return false
	}
	rest, err := filepath.Rel(absolute, other)
	return err == nil && rest != ".." && !strings.HasPrefix(rest, ".."+string(filepath.Separator))
}

// unfill removes what fill has made, after err.
func unfill(dir string, files []file, err error) error {
	root, e := os.OpenRoot(dir)
	if e != nil {
		return errors.Join(err, e)
	}
	defer root.Close()
	return undo(root, files, err)
}

// delegate makes an intermediate.
func (a *authority) delegate() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make intermediate: %w", err)
	}
	cert, err := a.sign(&x509.Certificate{
		Subject:        pkix.Name{CommonName: "poip issuer, " + strings.ToLower(rand.Text()[:6]) + ", of " + strings.TrimPrefix(a.cert.Subject.CommonName, authorityOf)},
		KeyUsage:       x509.KeyUsageCertSign,
		IsCA:           true,
		MaxPathLenZero: true,
	}, key.Public(), issuerLife)
	if err != nil {
		return nil, fmt.Errorf("make intermediate: %w", err)
	}
	return &authority{cert: cert, key: key, chain: encodeCert(cert.Raw), roots: a.roots}, nil
}

// Delegate gives a relay another intermediate, of the CA in the folder offline.
// What the former one has signed stays good until it ends.
func Delegate(dir, offline string) error {
	root, unlock, err := lockFolder(dir, commandWaits)
	if err != nil {
		return err
	}
	defer unlock()
	ca, err := openAuthority(offline)
	if err != nil {
		return err
	}
	trusted, err := loadRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return err
	}
	if !trusted[0].Equal(ca.cert) {
		return fmt.Errorf("make intermediate: the CA in %s is not the one that %s trusts", offline, dir)
	}
	return ca.delegateTo(root)
}

// delegateTo gives a relay's folder an intermediate. For holders of its lock.
func (a *authority) delegateTo(root *os.Root) error {
	issuer, err := a.delegate()
	if err != nil {
		return err
	}
	key, err := encodeKey(issuer.key)
	if err != nil {
		return fmt.Errorf("make intermediate: %w", err)
	}
	return replacePair(root, IssuerCert, IssuerKey, issuer.chain, key)
}
