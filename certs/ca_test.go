package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
	"poip/internal/poiptest"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// wants fails unless err holds all of the words.
func wants(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %q", err, w)
		}
	}
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 {
		t.Fatalf("%s is not one PEM block", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return cert
}

func initialized(t *testing.T, hosts ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "relay")
	must(t, certs.Init(dir, "relay.example", hosts))
	return dir
}

func TestInitMakesAnAuthorityThatOnlySigns(t *testing.T) {
	dir := initialized(t)
	ca := readCert(t, filepath.Join(dir, certs.CAFile))
	if !ca.IsCA || ca.MaxPathLen != 2 || ca.KeyUsage != x509.KeyUsageCertSign || len(ca.ExtKeyUsage) > 0 {
		t.Errorf("CA: %v, path length %d, usage %v", ca.IsCA, ca.MaxPathLen, ca.KeyUsage)
	}
	if key, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T", ca.PublicKey)
	}
	if years := time.Until(ca.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("lasts %.1f years", years)
	}
}

func TestInitMakesARelayCertificate(t *testing.T) {
	dir := initialized(t, "192.0.2.1", "relay-2.example", "2001:db8::1", "relay-2.example", "127.0.0.1")
	cert := readCert(t, filepath.Join(dir, certs.RelayCert))
	if want := []string{"relay.example", "relay-2.example", "localhost"}; !slices.Equal(cert.DNSNames, want) {
		t.Errorf("names %v", cert.DNSNames)
	}
	want := []string{"192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"}
	if !slices.EqualFunc(cert.IPAddresses, want, func(ip net.IP, s string) bool { return ip.String() == s }) {
		t.Errorf("addresses %v", cert.IPAddresses)
	}
	if len(cert.URIs) > 0 || cert.IsCA || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("URIs %v, CA %v, usage %v", cert.URIs, cert.IsCA, cert.ExtKeyUsage)
	}
	if ago := time.Since(cert.NotBefore); ago < 4*time.Minute || ago > 6*time.Minute {
		t.Errorf("backdated by %s", ago)
	}
	if days := time.Until(cert.NotAfter).Hours() / 24; days < 89 || days > 91 {
		t.Errorf("lasts %.1f days", days)
	}
	pool, err := certs.LoadAuthorities(filepath.Join(dir, certs.CAFile))
	must(t, err)
	for _, host := range []string{"relay.example", "localhost", "::1", "192.0.2.1"} {
		_, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: host})
		must(t, err)
	}
}

func TestIssueSensorMakesAnIdentity(t *testing.T) {
	dir, out := initialized(t), filepath.Join(t.TempDir(), "new", "branch-7")
	must(t, certs.IssueSensor(dir, "branch-7", out))
	cert := readCert(t, filepath.Join(out, certs.SensorCert))
	if name, err := auth.SensorOf(cert); err != nil || name != "branch-7" {
		t.Errorf("identity %q, %v", name, err)
	}
	if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || len(cert.URIs) != 1 || cert.IsCA ||
		!slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("more than an identity: %+v", cert)
	}
	pool, err := certs.LoadAuthorities(filepath.Join(out, certs.CAFile))
	must(t, err)
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	must(t, err)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool}); err == nil {
		t.Error("it would do for a server")
	}
	_, err = certs.LoadKeypair(filepath.Join(out, certs.SensorCert), filepath.Join(out, certs.SensorKey))
	must(t, err)
}

func TestIssueRefusesAnUncheckedName(t *testing.T) {
	dir := initialized(t)
	for _, bad := range []auth.SensorName{"", "Branch", "../x", "a b", "a/b"} {
		out := filepath.Join(t.TempDir(), "out")
		if err := certs.IssueSensor(dir, bad, out); err == nil {
			t.Errorf("issued %q", bad)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q left a folder", bad)
		}
	}
}

func TestInitRefusesBadHosts(t *testing.T) {
	for _, bad := range []string{"", "a b", "a/b", "a:1", "tls://a", "ä.example", strings.Repeat("a", 254)} {
		dir := filepath.Join(t.TempDir(), "relay")
		if err := certs.Init(dir, bad, nil); err == nil {
			t.Errorf("name %q was taken", bad)
		}
		if err := certs.Init(dir, "relay", []string{bad}); err == nil {
			t.Errorf("host %q was taken", bad)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%q left a folder", bad)
		}
	}
}

func TestSecretsAreForTheOwnerOnly(t *testing.T) {
	dir, out := initialized(t), filepath.Join(t.TempDir(), "branch-7")
	must(t, certs.IssueSensor(dir, "branch-7", out))
	for path, want := range map[string]os.FileMode{
		dir: 0o700, out: 0o700,
		filepath.Join(dir, certs.CAKey): 0o600, filepath.Join(dir, certs.RelayKey): 0o600,
		filepath.Join(out, certs.SensorKey): 0o600,
	} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
	}
}

// Whichever file is in the way is named, keeps what it holds, and the others
// are not made, or removed again.
func TestNothingIsOverwrittenOrHalfMade(t *testing.T) {
	ca := initialized(t)
	for _, c := range []struct {
		files []string
		make  func(dir string) error
	}{
		{[]string{certs.CAFile, certs.CAKey, certs.RelayCert, certs.RelayKey}, func(dir string) error { return certs.Init(dir, "relay", nil) }},
		{[]string{certs.CAFile, certs.SensorCert, certs.SensorKey}, func(dir string) error { return certs.IssueSensor(ca, "branch-7", dir) }},
	} {
		for _, name := range c.files {
			dir := filepath.Join(t.TempDir(), "dir")
			must(t, os.Mkdir(dir, 0o700))
			inTheWay := filepath.Join(dir, name)
			must(t, os.WriteFile(inTheWay, []byte("precious"), 0o600))
			wants(t, c.make(dir), inTheWay, "not overwritten")
			if text, err := os.ReadFile(inTheWay); err != nil || string(text) != "precious" {
				t.Errorf("%s holds %q, %v", name, text, err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("with %s in the way, %d files are left: %v", name, len(left), left)
			}
		}
	}
}

// A link that stands where a file shall be made is not followed.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, target := filepath.Join(t.TempDir(), "dir"), filepath.Join(t.TempDir(), "target")
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Symlink(target, filepath.Join(dir, certs.RelayKey)))
	if err := certs.Init(dir, "relay", nil); err == nil {
		t.Error("went through a link")
	}
	if _, err := os.Stat(target); err == nil {
		t.Error("wrote through a link")
	}
}

func TestWideModesAreRefusedWithTheRemedy(t *testing.T) {
	dir := initialized(t)
	key := filepath.Join(dir, certs.RelayKey)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o622, 0o610} {
		must(t, os.Chmod(key, mode))
		_, err := certs.LoadKeypair(filepath.Join(dir, certs.RelayCert), key)
		wants(t, err, "chmod 0600 "+key)
	}
	must(t, os.Chmod(filepath.Join(dir, certs.CAKey), 0o644))
	wants(t, certs.IssueSensor(dir, "branch-7", filepath.Join(t.TempDir(), "out")), "chmod 0600", certs.CAKey)
	must(t, os.Chmod(filepath.Join(dir, certs.CAKey), 0o400))
	must(t, os.Chmod(dir, 0o750))
	wants(t, certs.CheckFolder(dir), "chmod 0700 "+dir)
	wants(t, certs.IssueSensor(dir, "branch-7", filepath.Join(t.TempDir(), "out")), "chmod 0700 "+dir)
	wants(t, certs.Init(dir, "relay", nil), "chmod 0700 "+dir)
}

func TestKeypairIsRefusedWhenItIsBad(t *testing.T) {
	dir, other := initialized(t), initialized(t)
	cert, key := filepath.Join(dir, certs.RelayCert), filepath.Join(dir, certs.RelayKey)
	pair, err := certs.LoadKeypair(cert, key)
	must(t, err)
	must(t, pair.Valid())
	if !pair.NotAfter().Equal(readCert(t, cert).NotAfter) {
		t.Error("another end than the certificate's")
	}

	fresh, err := os.ReadFile(filepath.Join(other, certs.RelayCert))
	must(t, err)
	must(t, os.WriteFile(cert, fresh, 0o644))
	_, err = certs.LoadKeypair(cert, key)
	wants(t, err, cert, key) // the key is still the old one
	must(t, os.WriteFile(cert, []byte("nonsense"), 0o644))
	_, err = certs.LoadKeypair(cert, key)
	wants(t, err, cert)
	writeExpired(t, cert, key)
	pair, err = certs.LoadKeypair(cert, key)
	must(t, err)
	wants(t, pair.Valid(), "expired")
	must(t, os.Remove(cert))
	_, err = certs.LoadKeypair(cert, key)
	wants(t, err, cert)
}

// writeExpired puts a pair in place that fits together but is of no use any more.
func writeExpired(t *testing.T, cert, key string) {
	t.Helper()
	secret := poiptest.NewKey(t)
	pair := poiptest.NewCA(t).Forge(secret, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o644))
	der, err := x509.MarshalPKCS8PrivateKey(secret)
	must(t, err)
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

func TestLoadAuthoritiesRefusesAFileWithout(t *testing.T) {
	dir := initialized(t)
	_, err := certs.LoadAuthorities(filepath.Join(dir, certs.RelayKey))
	wants(t, err, "no certificate", certs.RelayKey)
	_, err = certs.LoadAuthorities(filepath.Join(dir, "missing.pem"))
	wants(t, err, "missing.pem")
}
