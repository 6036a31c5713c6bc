package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"poip/internal/wire"
)

// The lives of certificates, where the configuration does not say otherwise.
const (
	SensorLife  = 7 * 24 * time.Hour
	RelayLife   = 90 * 24 * time.Hour
	AnalystLife = 90 * 24 * time.Hour
)

// dueAt is when two thirds of a certificate's life are over.
func dueAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// comesFrom says whether the root has signed the first certificate of a
// chain, be it through others. Times do not matter.
func comesFrom(root *x509.Certificate, chain []*x509.Certificate) bool {
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: poolOf([]*x509.Certificate{root}), Intermediates: poolOf(chain[1:]),
		CurrentTime: chain[0].NotBefore.Add(time.Second),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// A Renewer signs the requests of sensors that have a certificate already.
type Renewer struct {
	Data string               // the relay's data folder
	Life func() time.Duration // of the new certificates

	mu     sync.Mutex
	recent map[Subject][]time.Time // guarded by mu; when they had theirs renewed
}

// A sensor may renew so often in an hour, or in the life of one certificate
// where that is shorter. Each takes a signature, an fsync and a line in the
// registry.
const mostRenewals = 8

var errTooOften = errors.New("renewed too often of late; try again later")

// Renew signs a request of who has shown this chain, its own certificate
// first, and returns the new chain. Nothing of the request counts but its
// key. While it works nobody can revoke; so a certificate is either revoked
// and not renewed, or renewed and known to whoever revokes it later.
func (r *Renewer) Renew(chain []*x509.Certificate, request []byte, remote string) ([]*x509.Certificate, error) {
	who, err := SubjectOf(chain[0])
	if err != nil {
		return nil, err
	}
	if who.Role != RoleSensor {
		return nil, fmt.Errorf("%s: only sensors renew by themselves", who)
	}
	csr, err := CheckCSR(request)
	if err != nil {
		return nil, err
	}
	if !r.mayAgain(who, time.Now()) {
		return nil, errTooOften
	}
	_, unlock, err := lockFolder(r.Data, relayWaits)
	if err != nil {
		return nil, err
	}
	defer unlock()
	standing, err := loadStanding(r.Data) // as of now, not of when it was loaded last
	if err != nil {
		return nil, err
	}
	if err := standing.Standing(chain); err != nil {
		return nil, err
	}
	return r.sign(standing, who, chain[0], csr, remote)
}

func (r *Renewer) sign(standing *Trust, who Subject, old *x509.Certificate, csr *x509.CertificateRequest, remote string) ([]*x509.Certificate, error) {
	issuer, err := OpenIssuer(r.Data)
	if err != nil {
		return nil, err
	}
	leaf, err := issuer.Sign(who, csr, r.Life())
	if err != nil {
		return nil, err
	}
	if KeyOf(leaf) == KeyOf(old) || standing.revoked.Certificate("", KeyOf(leaf)) {
		return nil, errors.New("the request's key was used before: make a fresh one")
	}
	entry := EntryOf(leaf, HowRenewed, remote)
	entry.From = SerialOf(old)
	if err := OpenRegistry(r.Data).Add(who, entry); err != nil {
		return nil, err
	}
	return parseChain(issuer.Chain(leaf))
}

// mayAgain bounds how often a sensor renews.
func (r *Renewer) mayAgain(who Subject, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recent == nil {
		r.recent = make(map[Subject][]time.Time)
	}
	since := now.Add(-min(time.Hour, r.Life()))
	var times []time.Time
	for _, t := range r.recent[who] {
		if t.After(since) {
			times = append(times, t)
		}
	}
	if len(times) >= mostRenewals {
		return false
	}
	r.recent[who] = append(times, now)
	return true
}

func parseChain(ders [][]byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		chain = append(chain, cert)
	}
	if !wire.CertificatesFit(ders) {
		return nil, errors.New("the chain of certificates is too long for the wire")
	}
	return chain, nil
}

// RenewRelay replaces the relay's own certificate and key where RelayDue says
// so at the time now, and says whether it did.
func RenewRelay(dir string, now time.Time, life time.Duration) (renewed bool, err error) {
	root, unlock, err := lockFolder(dir, relayWaits)
	if err != nil {
		return false, err
	}
	defer unlock()
	current, err := LoadTrust(dir) // somebody else may have been faster
	if err != nil || !current.RelayDue(now) {
		return false, err
	}
	return true, reissueRelay(root, life)
}

// reissueRelay makes the relay a new key, and a certificate for the names of
// the one that it has. For holders of the folder's lock.
func reissueRelay(root *os.Root, life time.Duration) error {
	dir := root.Name()
	old, err := loadPair(filepath.Join(dir, RelayCert), filepath.Join(dir, RelayKey))
	if err != nil {
		return err
	}
	ca, err := openAuthority(dir)
	if err != nil {
		return fmt.Errorf("renew the relay's certificate: %w", err)
	}
	fresh, err := ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: old.Leaf.Subject.CommonName},
		DNSNames:    old.Leaf.DNSNames,
		IPAddresses: old.Leaf.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, life)
	if err != nil {
		return fmt.Errorf("renew the relay's certificate: %w", err)
	}
	bridge, err := loadBridge(dir)
	if err != nil {
		return err
	}
	return replacePair(root, RelayCert, RelayKey, append(fresh.cert, bridge...), fresh.key)
}
