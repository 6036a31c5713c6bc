package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"poip/auth"
)

// The intermediate that signs where the CA's key is kept elsewhere.
const (
	IssuerCert = "issuer.pem"
	IssuerKey  = "issuer.key"
)

// signerFiles are what signs in a relay's data folder.
func signerFiles(dir string) (certFile, keyFile string) {
	if _, err := os.Lstat(filepath.Join(dir, IssuerKey)); err == nil {
		return filepath.Join(dir, IssuerCert), filepath.Join(dir, IssuerKey)
	}
	return filepath.Join(dir, CAFile), filepath.Join(dir, CAKey)
}

// Role is what somebody with a certificate may be.
type Role string

// The roles. A sensor opens no listener, an analyst no intake.
const (
	RoleSensor  Role = "sensor"
	RoleAnalyst Role = "analyst"
)

// A Subject is whom a certificate names. Its name is checked.
type Subject struct {
	Role Role
	Name string
}

// SensorSubject is a sensor.
func SensorSubject(name auth.SensorName) Subject { return Subject{RoleSensor, string(name)} }

// AnalystSubject is an analyst.
func AnalystSubject(name auth.AnalystName) Subject { return Subject{RoleAnalyst, string(name)} }

// SubjectOf reads whom a verified certificate names.
func SubjectOf(cert *x509.Certificate) (Subject, error) {
	if sensor, err := auth.SensorOf(cert); err == nil {
		return SensorSubject(sensor), nil
	}
	analyst, err := auth.AnalystOf(cert)
	if err != nil {
		return Subject{}, err
	}
	return AnalystSubject(analyst), nil
}

// String is as people write it: "sensor branch-7".
func (s Subject) String() string { return string(s.Role) + " " + s.Name }

// template is the certificate before it is signed: one URI and nothing else
// that anybody could take for a name.
func (s Subject) template() *x509.Certificate {
	uri := auth.SensorURI(auth.SensorName(s.Name))
	if s.Role == RoleAnalyst {
		uri = auth.AnalystURI(auth.AnalystName(s.Name))
	}
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.Name}, // for people; nobody trusts it
		URIs:        []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// An Issuer signs certificates for keys that others have made.
type Issuer struct{ authority *authority }

// OpenIssuer opens the authority in a relay's data folder.
func OpenIssuer(dir string) (*Issuer, error) {
	a, err := openAuthority(dir)
	if err != nil {
		return nil, err
	}
	return &Issuer{a}, nil
}

// Sign makes a certificate for the key of a request that CheckCSR has taken.
// What the request says beside its key counts for nothing. Who is handed the
// certificate has to be entered into the Registry first.
func (i *Issuer) Sign(who Subject, csr *x509.CertificateRequest, life time.Duration) (*x509.Certificate, error) {
	cert, err := i.authority.sign(who.template(), csr.PublicKey, life)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", who, err)
	}
	return cert, nil
}

// Chain is the certificate with what leads from it to below the root, in DER.
func (i *Issuer) Chain(cert *x509.Certificate) [][]byte {
	return append([][]byte{cert.Raw}, decodeCerts(i.authority.chain)...)
}

// Authorities are the roots that peers shall trust, in DER.
func (i *Issuer) Authorities() [][]byte { return decodeCerts(i.authority.roots) }

// CheckCSR reads a request and refuses what nobody should sign: one that its
// own key has not signed, or a weak key.
func CheckCSR(der []byte) (*x509.CertificateRequest, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w", err)
	}
	switch key := csr.PublicKey.(type) { // before the signature, which strangers could make as long to verify as they like
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, errors.New("check certificate request: ECDSA on another curve than P-256")
		}
	case *rsa.PublicKey:
		if key.N.BitLen() > 8192 {
			return nil, errors.New("check certificate request: RSA with more than 8192 bits")
		}
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("check certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check certificate request: %w", err)
	}
	return csr, nil
}

// decodeCerts takes PEM apart.
func decodeCerts(text []byte) (ders [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return ders
		}
		if block.Type == "CERTIFICATE" {
			ders = append(ders, block.Bytes)
		}
	}
}
