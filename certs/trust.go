package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/wire"
)

// Trust is what a relay proves itself with, and by whom it lets itself be
// convinced, as its data folder said at one moment. It does not change; what
// was loaded anew takes its place.
type Trust struct {
	relay    *Keypair
	bridge   [][]byte            // from an older root to the newest, in DER
	roots    []*x509.Certificate // the newest first
	pool     *x509.CertPool      // of roots
	revoked  *auth.Revocations
	registry Registry
	newest   map[string]bool // key identifiers of the newest root and its intermediate
}

// LoadTrust reads a relay's data folder. All of it has to be good: revocations
// that cannot be read would be none.
func LoadTrust(dir string) (*Trust, error) {
	if err := errors.Join(CheckFolder(dir), checkSecrets(dir)); err != nil {
		return nil, err
	}
	relay, err := LoadKeypair(filepath.Join(dir, RelayCert), filepath.Join(dir, RelayKey))
	if err != nil {
		return nil, err
	}
	t, err := loadStanding(dir)
	if err != nil {
		return nil, err
	}
	bridge, err := loadBridge(dir)
	if err != nil {
		return nil, err
	}
	t.relay, t.bridge = relay, decodeCerts(bridge)
	return t, nil
}

// loadStanding reads what it takes to judge the certificates of others.
func loadStanding(dir string) (*Trust, error) {
	roots, err := loadRoots(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	revoked, err := loadRevocations(dir)
	if err != nil {
		return nil, err
	}
	t := &Trust{
		roots: roots, pool: poolOf(roots), revoked: revoked, registry: OpenRegistry(dir),
		newest: map[string]bool{hex.EncodeToString(roots[0].SubjectKeyId): true},
	}
	certFile, _ := signerFiles(dir)
	if chain, err := loadRoots(certFile); err == nil && comesFrom(roots[0], chain) {
		t.newest[hex.EncodeToString(chain[0].SubjectKeyId)] = true
	}
	return t, nil
}

// Relay is the relay's own certificate.
func (t *Trust) Relay() *Keypair { return t.relay }

// Pool are the authorities.
func (t *Trust) Pool() *x509.CertPool { return t.pool }

// Authorities are the roots that peers shall trust, in DER, the newest first.
func (t *Trust) Authorities() (ders [][]byte) {
	for _, root := range t.roots {
		ders = append(ders, root.Raw)
	}
	return ders
}

// Announcement is what agents hear: the authorities, and what makes those who
// trust an older one believe in the newest.
func (t *Trust) Announcement() [][]byte { return append(t.Authorities(), t.bridge...) }

// Valid says why this could not take the place of what is in force.
func (t *Trust) Valid() error {
	if err := t.relay.Valid(); err != nil {
		return fmt.Errorf("load %s: %w", RelayCert, err)
	}
	chain, err := parseChain(t.relay.pair.Certificate)
	if err != nil {
		return fmt.Errorf("load %s: %w", RelayCert, err)
	}
	if !slices.ContainsFunc(t.roots, func(root *x509.Certificate) bool { return comesFrom(root, chain) }) {
		return fmt.Errorf("no authority in %s has signed %s: agents that trust these would refuse the relay", CAFile, RelayCert)
	}
	return nil
}

// Follows says why this cannot take the place of what was in force before: a
// list of revocations that was there and is gone is damage, not mercy.
func (t *Trust) Follows(before *Trust) error {
	if len(t.revoked.Certificates)+len(t.revoked.Names) == 0 && len(before.revoked.Certificates)+len(before.revoked.Names) > 0 {
		return fmt.Errorf("%s has become empty: put it back; to take back a revocation, issue or enroll anew", RevocationsFile)
	}
	return nil
}

// Revoking is t with the revocations as they are now, for when nothing else of
// the data folder is of use: who is revoked has to go all the same.
func (t *Trust) Revoking(dir string) (*Trust, error) {
	revoked, err := loadRevocations(dir)
	if err != nil {
		return nil, err
	}
	next := *t
	next.revoked = revoked
	return &next, next.Follows(t)
}

// IntakeTLS is for agents.
func (t *Trust) IntakeTLS() *tls.Config { return t.judging(IntakeTLS(t.relay, t.pool)) }

// AnalystTLS is for listeners, by their key client_auth.
func (t *Trust) AnalystTLS(clientAuth string) *tls.Config {
	if clientAuth == "cert" {
		return t.judging(AnalystTLS(t.relay, t.pool))
	}
	return AnalystTLS(t.relay, nil)
}

// judging adds our judgement to a configuration's own. It is made in
// VerifyConnection, which crypto/tls calls for resumed sessions too.
func (t *Trust) judging(cfg *tls.Config) *tls.Config {
	own := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if err := own(state); err != nil || len(state.PeerCertificates) == 0 {
			return err // who joins has no certificate yet
		}
		return t.Standing(state.PeerCertificates)
	}
	return cfg
}

// Standing says why a peer with this chain, its own certificate first, is not
// to be talked to now, as a refusal on the wire. It is asked at the handshake
// and again while the connection lasts.
func (t *Trust) Standing(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return wire.Refusal{Code: wire.CodeForbidden, Reason: "no certificate"}
	}
	if reason := t.revocation(chain[0]); reason != "" {
		return wire.Refusal{Code: wire.CodeRevoked, Reason: reason}
	}
	now := time.Now()
	if now.After(chain[0].NotAfter) {
		return wire.Refusal{Code: wire.CodeExpired, Reason: fmt.Sprintf("the certificate has expired on %s", chain[0].NotAfter.Format(time.RFC3339))}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: poolOf(chain[1:]), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return wire.Refusal{Code: wire.CodeRevoked, Reason: "the authority of the certificate is not accepted any more"}
	case err != nil:
		return wire.Refusal{Code: wire.CodeForbidden, Reason: err.Error()}
	}
	return nil
}

// revocation says how the certificate was revoked, if it was.
func (t *Trust) revocation(leaf *x509.Certificate) string {
	if t.revoked.Certificate(SerialOf(leaf), KeyOf(leaf)) {
		return "the certificate is revoked"
	}
	identity, err := auth.IdentityOf(leaf)
	if err != nil || !t.revoked.Name(identity) {
		return ""
	}
	who, err := SubjectOf(leaf)
	if err != nil {
		return "the certificate's name is revoked"
	}
	record, err := t.registry.Lookup(who)
	if err != nil || !slices.ContainsFunc(record.Certificates, func(e Entry) bool { return e.Serial == SerialOf(leaf) && e.SPKI == KeyOf(leaf) }) {
		return "the certificate's name was revoked, and the relay has not issued this certificate since"
	}
	return ""
}

// LoadStanding reads what it takes to judge the certificates of others, and
// no key.
func LoadStanding(dir string) (*Trust, error) {
	if err := CheckFolder(dir); err != nil {
		return nil, err
	}
	return loadStanding(dir)
}

// RelayDue says whether the relay should renew its own certificate: two thirds
// of its life are over, or it is not from the newest authority. One from
// another authority than ours is left to who made it.
func (t *Trust) RelayDue(now time.Time) bool {
	chain, err := parseChain(t.relay.pair.Certificate)
	if err != nil {
		return false
	}
	ours := slices.ContainsFunc(t.roots, func(root *x509.Certificate) bool { return comesFrom(root, chain) })
	return ours && (now.After(dueAt(chain[0])) || !comesFrom(t.roots[0], chain))
}

// Verdict describes where a name stands by the certificates that were issued
// to it: "valid", "expired", "revoked", or "" where none was. The entry is
// that of the certificate which counts, the newest.
func (t *Trust) Verdict(record Record, now time.Time) (Entry, string) {
	if e, ok := t.latest(record, now); ok {
		return e, "valid"
	}
	if len(record.Certificates) == 0 {
		return Entry{}, ""
	}
	newest := record.Certificates[len(record.Certificates)-1]
	if t.revoked.Certificate(newest.Serial, newest.SPKI) {
		return newest, "revoked"
	}
	return newest, "expired"
}

// FromNewest says whether an entry's certificate is from the newest authority,
// as far as the registry knows.
func (t *Trust) FromNewest(e Entry) bool {
	return len(t.roots) == 1 || t.newest[e.Issuer]
}
