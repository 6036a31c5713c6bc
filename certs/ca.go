// Package certs makes and keeps the certificates of a relay and its sensors,
// and every tls.Config of the project.
//
// A relay has an authority of its own, which signs two kinds of certificates
// and nothing else: the relay's, by which agents and analysts know it, and
// one for each sensor, which carries the sensor's name in its URI SAN. Init
// makes the authority, IssueSensor a sensor's folder; both are plain PEM
// files. A Keypair is a certificate with its key in use; Following lets what
// was loaded anew be used while connections go on.
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
	"net/url"
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
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 2 * 365 * 24 * time.Hour

	// backdate forgives clocks that are a little behind.
	backdate = 5 * time.Minute
)

// Init makes an authority and a relay's certificate in dir, which is made
// where it does not exist. The certificate is good for name, for hosts (names
// or addresses), and for this machine itself. Nothing is overwritten, and
// when it fails nothing is left.
func Init(dir, name string, hosts []string) error {
	names, ips, err := subjects(append([]string{name}, hosts...))
	if err != nil {
		return fmt.Errorf("make relay certificate: %w", err)
	}
	ca, err := newAuthority(name)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	relay, err := ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		DNSNames:    names,
		IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("make relay certificate: %w", err)
	}
	caKey, err := encodeKey(ca.key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	return fill(dir, []file{
		{CAFile, encodeCert(ca.cert.Raw), publicMode},
		{CAKey, caKey, secretMode},
		{RelayCert, relay.cert, publicMode},
		{RelayKey, relay.key, secretMode},
	})
}

// IssueSensor makes a sensor's identity, signed by the authority in dir, in
// the folder out: key, certificate and the authority's certificate, ready to
// be copied to the sensor.
func IssueSensor(dir string, name auth.SensorName, out string) error {
	if _, err := auth.ParseSensorName(string(name)); err != nil {
		return fmt.Errorf("issue: %w", err)
	}
	ca, err := openAuthority(dir)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	sensor, err := ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: string(name)}, // for people; nobody trusts it
		URIs:        []*url.URL{auth.SensorURI(name)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	return fill(out, []file{
		{CAFile, encodeCert(ca.cert.Raw), publicMode},
		{SensorCert, sensor.cert, publicMode},
		{SensorKey, sensor.key, secretMode},
	})
}

// authority signs.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// identity is a certificate and its key, in PEM.
type identity struct{ cert, key []byte }

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "poip authority of " + name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs no other authority
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
}

func openAuthority(dir string) (*authority, error) {
	if err := CheckFolder(dir); err != nil {
		return nil, err
	}
	pair, err := loadPair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKey))
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open authority: %s is not an authority's certificate", filepath.Join(dir, CAFile))
	}
	return &authority{cert: pair.Leaf, key: key}, nil
}

// issue completes the template with a new key, a time, a number, and signs it.
func (a *authority) issue(template *x509.Certificate) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(leafLife)
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return identity{}, err
	}
	secret, err := encodeKey(key)
	return identity{cert: encodeCert(der), key: secret}, err
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

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
