package certs_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"poip/auth"
	"poip/certs"
)

// wholeChain reads a file of several certificates.
func wholeChain(t *testing.T, path string) (leaf *x509.Certificate, others *x509.CertPool, n int) {
	t.Helper()
	pair, err := os.ReadFile(path)
	must(t, err)
	others = x509.NewCertPool()
	for rest := pair; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return leaf, others, n
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		if leaf == nil {
			leaf = cert
		}
		others.AddCert(cert)
	}
}

// With the CA's key elsewhere, everything holds that holds with it here: a
// sensor joins, or is issued, and either end verifies the other by the CA alone.
func TestTheCAMayBeElsewhere(t *testing.T) {
	dir, offline := filepath.Join(t.TempDir(), "relay"), filepath.Join(t.TempDir(), "safe")
	must(t, certs.InitOffline(dir, offline, "relay.test", nil))
	if _, err := os.Stat(filepath.Join(dir, certs.CAKey)); err == nil {
		t.Fatal("the CA's key is on the relay")
	}
	for _, key := range []string{filepath.Join(dir, certs.IssuerKey), filepath.Join(offline, certs.CAKey)} {
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", key, err)
		}
	}
	ca := readCert(t, filepath.Join(offline, certs.CAFile))
	issuer := readCert(t, filepath.Join(dir, certs.IssuerCert))
	if !issuer.IsCA || !issuer.MaxPathLenZero || issuer.CheckSignatureFrom(ca) != nil || !issuer.NotAfter.Before(ca.NotAfter) {
		t.Errorf("intermediate: CA %t, path length %d", issuer.IsCA, issuer.MaxPathLen)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	leaf, others, n := wholeChain(t, filepath.Join(dir, certs.RelayCert))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, DNSName: "relay.test"}); err != nil || n != 2 {
		t.Errorf("the relay's chain of %d: %v", n, err)
	}
	out := filepath.Join(t.TempDir(), "branch-7")
	must(t, certs.IssueSensor(dir, "branch-7", out))
	leaf, others, _ = wholeChain(t, filepath.Join(out, certs.SensorCert))
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	must(t, err)

	d := openDoorOf(t, dir)
	joinsAndConnects := func(name auth.SensorName) {
		for _, network := range []string{"tls", "quic"} {
			folder := newFolder(t)
			_, err := (&certs.Joiner{Token: d.token(network, name, true), Dir: folder}).Join(t.Context())
			must(t, err)
			d.connects(network, folder)
		}
	}
	joinsAndConnects("branch-8")
	must(t, certs.Delegate(dir, offline)) // another intermediate; the old one's certificates stay good
	if readCert(t, filepath.Join(dir, certs.IssuerCert)).Equal(issuer) {
		t.Error("the intermediate was not replaced")
	}
	joinsAndConnects("branch-9")
	d.connects("tls", out)

	other := filepath.Join(t.TempDir(), "other")
	must(t, certs.InitOffline(filepath.Join(t.TempDir(), "relay"), other, "relay.test", nil))
	wants(t, certs.Delegate(dir, other), "not the one")
	wants(t, certs.InitOffline(dir+"2", dir+"2/safe", "relay.test", nil), "within")
	wants(t, certs.InitOffline(dir, offline+"2", "relay.test", nil), "not overwritten")
	if left, err := os.ReadDir(offline + "2"); err == nil && len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestIssueAnalystMakesAnIdentity(t *testing.T) {
	dir, offline := filepath.Join(t.TempDir(), "relay"), filepath.Join(t.TempDir(), "safe")
	must(t, certs.InitOffline(dir, offline, "relay.test", nil))
	out := filepath.Join(t.TempDir(), "alice")
	must(t, certs.IssueAnalyst(dir, "alice", out, "a password", certs.AnalystLife))
	leaf, others, _ := wholeChain(t, filepath.Join(out, certs.AnalystCert))
	roots, err := certs.LoadAuthorities(filepath.Join(out, certs.CAFile))
	must(t, err)
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	must(t, err)
	if name, err := auth.AnalystOf(leaf); err != nil || name != "alice" {
		t.Errorf("identity %q, %v", name, err)
	}
	if sensor, err := auth.SensorOf(leaf); err == nil {
		t.Errorf("it is that of sensor %q as well", sensor)
	}
	packed, err := os.ReadFile(filepath.Join(out, certs.AnalystP12))
	must(t, err)
	key, cert, authorities, err := pkcs12.DecodeChain(packed, "a password")
	must(t, err)
	if !cert.Equal(leaf) || len(authorities) != 2 || key == nil {
		t.Errorf("PKCS #12 holds %v with %d authorities", cert.Subject, len(authorities))
	}
	if _, _, _, err := pkcs12.DecodeChain(packed, "another"); err == nil {
		t.Error("any password opens it")
	}
	record, err := certs.OpenRegistry(dir).Lookup(certs.AnalystSubject("alice"))
	must(t, err)
	if !slices.ContainsFunc(record.Certificates, func(e certs.Entry) bool { return e.Serial == certs.SerialOf(leaf) }) {
		t.Error("it is not in the registry: nobody could revoke it")
	}
	for _, name := range []string{certs.AnalystKey, certs.AnalystBundle, certs.AnalystP12} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = certs.LoadKeypair(filepath.Join(out, certs.AnalystBundle), filepath.Join(out, certs.AnalystBundle))
	must(t, err)
	for _, bad := range []auth.AnalystName{"", "Alice", "../x"} {
		if err := certs.IssueAnalyst(dir, bad, filepath.Join(t.TempDir(), "x"), "p", certs.AnalystLife); err == nil {
			t.Errorf("issued %q", bad)
		}
	}
	wants(t, certs.IssueAnalyst(dir, "bob", filepath.Join(t.TempDir(), "x"), "", certs.AnalystLife), "empty")
}

// Where the registry cannot take a certificate, nobody gets it. Fails without
// unfill in handOver.
func TestNothingIsHandedOverThatCannotBeRevoked(t *testing.T) {
	dir := initialized(t)
	must(t, os.Mkdir(filepath.Join(dir, "sensors"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "sensors", "branch-7.json"), []byte("damaged"), 0o600))
	out := filepath.Join(t.TempDir(), "out")
	wants(t, certs.IssueSensor(dir, "branch-7", out), "branch-7.json")
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
