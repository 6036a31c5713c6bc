package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Revocations are the certificates, and the names, that count for nothing any
// more. A certificate is known by its serial number and by its key: what of it
// an attacker could write in another way, as the bytes of a signature, is
// looked at nowhere. The zero value revokes nothing.
type Revocations struct {
	Certificates []RevokedCertificate
	Names        []RevokedName

	serials, keys, identities map[string]bool
}

// A RevokedCertificate is one certificate, and every other with its key.
type RevokedCertificate struct {
	Identity string    `json:"identity"` // its URI SAN
	Serial   string    `json:"serial"`   // in hexadecimal, lower case, whole bytes
	Key      string    `json:"spki"`     // SHA-256 of its SubjectPublicKeyInfo, in hexadecimal
	When     time.Time `json:"when"`
}

// A RevokedName is a sensor or an analyst whose certificates were all revoked.
// From then on only certificates of that name count that the relay's registry
// lists: those that it knew were revoked one by one.
type RevokedName struct {
	Identity string    `json:"identity"`
	When     time.Time `json:"when"`
}

// revocationsFile is the form of revoked.json.
type revocationsFile struct {
	Version      int                  `json:"version"`
	Certificates []RevokedCertificate `json:"certificates"`
	Names        []RevokedName        `json:"names"`
}

const revocationsVersion = 1

// ParseRevocations reads what Encode has written, and nothing else: what is
// not understood might be a revocation.
func ParseRevocations(text []byte) (*Revocations, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var f revocationsFile
	if err := decoder.Decode(&f); err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	if decoder.More() {
		return nil, errors.New("read revocations: more than one value")
	}
	if f.Version != revocationsVersion {
		return nil, fmt.Errorf("read revocations: version %d; this program knows %d", f.Version, revocationsVersion)
	}
	r := new(Revocations)
	for _, c := range f.Certificates {
		if !isHex(c.Serial) || !isHex(c.Key) || len(c.Key) != 64 {
			return nil, fmt.Errorf("read revocations: no serial number and key in %.200q", c)
		}
		r.AddCertificate(c)
	}
	for _, n := range f.Names {
		if n.Identity == "" {
			return nil, errors.New("read revocations: a name is empty")
		}
		r.AddName(n)
	}
	return r, nil
}

func isHex(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) > 0 && hex.EncodeToString(b) == s
}

// Encode writes them as JSON.
func (r *Revocations) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(revocationsFile{revocationsVersion, r.Certificates, r.Names}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write revocations: %w", err)
	}
	return append(text, '\n'), nil
}

// AddCertificate revokes a certificate. One that is revoked already stays so.
func (r *Revocations) AddCertificate(c RevokedCertificate) {
	if r.serials[c.Serial] && r.keys[c.Key] {
		return
	}
	if r.serials == nil {
		r.serials, r.keys = make(map[string]bool), make(map[string]bool)
	}
	r.Certificates = append(r.Certificates, c)
	r.serials[c.Serial], r.keys[c.Key] = true, true
}

// AddName revokes a name, until the registry lists other certificates for it.
func (r *Revocations) AddName(n RevokedName) {
	if r.identities[n.Identity] {
		return
	}
	if r.identities == nil {
		r.identities = make(map[string]bool)
	}
	r.Names = append(r.Names, n)
	r.identities[n.Identity] = true
}

// Certificate says whether a certificate with this serial number, or this
// key, is revoked.
func (r *Revocations) Certificate(serial, key string) bool { return r.serials[serial] || r.keys[key] }

// Name says whether the identity, a URI SAN, was revoked as a whole.
func (r *Revocations) Name(identity string) bool { return r.identities[identity] }

// IdentityOf is the URI SAN of a certificate, unchecked, byte for byte.
func IdentityOf(cert *x509.Certificate) (string, error) { return uriOf(cert) }
