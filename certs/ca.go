// Package certs makes and keeps the certificates of a relay and its sensors,
// and every tls.Config of the project.
//
// A relay has an authority of its own, or an intermediate of one that is kept
// elsewhere (offline.go). It signs three kinds of certificates: the relay's, by
// which agents and analysts know it, and those of sensors and of analysts,
// which carry the name in their URI SAN; and once in its life the bridge to the
// authority that follows it (bridge.go). Init makes the authority, IssueSensor
// a sensor's folder; both are plain PEM files. A Keypair is a certificate with
// its key in use; Following lets what was loaded anew be used while connections
// go on.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"poip/auth"
)

// The names of the files, in a relay's and in an agent's data folder.
const (
	CAFile     = "ca.pem"
	CAKey      = "ca.key"
	RelayCert  = "relay.pem"
	RelayKey   = "relay.key"
	SensorCert = "sensor.pem"
	SensorKey  = "sensor.key"
)

const (
	caLife = 10 * 365 * 24 * time.Hour

	// backdate forgives clocks that are a little behind.
	backdate = 5 * time.Minute

	authorityOf = "poip authority of " // and the relay's name: an authority's subject
)

// Init makes an authority and a relay's certificate in dir, which is made
// where it does not exist. The certificate is good for name, for hosts (names
// or addresses), and for this machine itself. Nothing is overwritten, and
// when it fails nothing is left.
func Init(dir, name string, hosts []string) error {
	template, err := relayTemplate(name, hosts)
	if err != nil {
		return err
	}
	ca, err := newAuthority(name)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	relay, err := ca.issue(template, RelayLife)
	if err != nil {
		return fmt.Errorf("make relay certificate: %w", err)
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	return fill(dir, []file{
		{CAFile, ca.roots, publicMode},
		{CAKey, caKey, secretMode},
		{RelayCert, relay.cert, publicMode},
		{RelayKey, relay.key, secretMode},
	})
}

// relayTemplate is a relay's certificate before it is signed.
func relayTemplate(name string, hosts []string) (*x509.Certificate, error) {
	names, ips, err := subjects(append([]string{name}, hosts...))
	if err != nil {
		return nil, fmt.Errorf("make relay certificate: %w", err)
	}
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    names,
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, nil
}

// IssueSensor makes a sensor's identity, signed by the authority in dir, in
// the folder out: key, certificate and the authority's certificate, ready to
// be copied to the sensor.
func IssueSensor(dir string, name auth.SensorName, out string) error {
	return IssueSensorFor(dir, name, out, SensorLife)
}

// IssueSensorFor is IssueSensor with another life than the usual one.
func IssueSensorFor(dir string, name auth.SensorName, out string, life time.Duration) error {
	if _, err := auth.ParseSensorName(string(name)); err != nil {
		return fmt.Errorf("issue: %w", err)
	}
	ca, err := openAuthority(dir)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	who := SensorSubject(name)
	sensor, err := ca.issue(who.template(), life)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	return handOver(dir, who, sensor, out, []file{
		{CAFile, ca.roots, publicMode},
		{SensorCert, sensor.cert, publicMode},
		{SensorKey, sensor.key, secretMode},
	})
}

// authority signs: the CA itself, or where its key is kept elsewhere, an
// intermediate.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	chain []byte // PEM, from cert to below the root; what peers need beside a leaf; empty where cert is the root
	roots []byte // PEM, what peers trust
}

// identity is a certificate, with its chain, and its key, in PEM.
type identity struct {
	leaf      *x509.Certificate
	cert, key []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: authorityOf + name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            2, // the authority that follows it, and an intermediate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key, roots: encodeCert(der)}, err
}

func openAuthority(dir string) (*authority, error) {
	if err := CheckFolder(dir); err != nil {
		return nil, err
	}
	roots, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	certFile, keyFile := signerFiles(dir)
	pair, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open authority: %s is not an authority's certificate", certFile)
	}
	a := &authority{cert: pair.Leaf, key: key, roots: roots}
	if certFile == filepath.Join(dir, IssuerCert) {
		a.chain = encodeChain(pair.Certificate)
	}
	return a, nil
}

// issue makes a key and has the template signed for it.
func (a *authority) issue(template *x509.Certificate, life time.Duration) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	leaf, err := a.sign(template, key.Public(), life)
	if err != nil {
		return identity{}, err
	}
	secret, err := encodeKey(key)
	return identity{leaf: leaf, cert: a.encode(leaf), key: secret}, err
}

// sign completes the template with a time, a usage and a number, and signs it
// for the key.
func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-min(backdate, life/10)), now.Add(life)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if template.KeyUsage == 0 {
		template.KeyUsage = x509.KeyUsageDigitalSignature
	}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// encode is a leaf's PEM, with what leads from it to the root.
func (a *authority) encode(leaf *x509.Certificate) []byte {
	return append(encodeCert(leaf.Raw), a.chain...)
}

// subjects sorts hosts into names and addresses, and adds this machine's own.
func subjects(hosts []string) (names []string, ips []net.IP, err error) {
	for _, host := range append(hosts, "localhost", "127.0.0.1", "::1") {
		if ip := net.ParseIP(host); ip != nil {
			if !slices.ContainsFunc(ips, ip.Equal) {
				ips = append(ips, ip)
			}
			continue
		}
		if err := checkHost(host); err != nil {
			return nil, nil, err
		}
		if !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	return names, ips, nil
}

func checkHost(host string) error {
	if host == "" {
		return errors.New("empty name; give the name or address that agents dial")
	}
	if len(host) > 253 || strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" {
		return fmt.Errorf("%.300q is neither a host's name nor an address", host)
	}
	return nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeChain(ders [][]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, encodeCert(der)...)
	}
	return out
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
