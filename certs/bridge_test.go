package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned is a root with a key and a name that somebody has already.
func selfSigned(t *testing.T, a *authority) []byte {
	t.Helper()
	template := &x509.Certificate{
		Subject: a.cert.Subject, SubjectKeyId: a.cert.SubjectKeyId, SerialNumber: a.cert.SerialNumber,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(caLife),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 2,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	check(t, err)
	return der
}

// bridge is what old signs for another authority, after a change.
func bridge(t *testing.T, old, next *authority, change func(*x509.Certificate)) []byte {
	t.Helper()
	text, err := old.bridgeTo(next)
	check(t, err)
	cert, err := x509.ParseCertificate(decodeCerts(text)[0])
	check(t, err)
	change(cert)
	der, err := x509.CreateCertificate(rand.Reader, cert, old.cert, next.key.Public(), old.key)
	check(t, err)
	return der
}

// TestAThiefCannotMakeAgentsTrustHisAuthority: he has everything that the relay
// has, the key of its intermediate too, and announces what he likes; but the
// CA's key is elsewhere. What the CA itself has signed is believed. Each row
// but the last fails without one of the conditions in bridges, or without
// believed asking it.
func TestAThiefCannotMakeAgentsTrustHisAuthority(t *testing.T) {
	dir := t.TempDir()
	relay, vault, sensor := filepath.Join(dir, "relay"), filepath.Join(dir, "vault"), filepath.Join(dir, "sensor")
	check(t, InitOffline(relay, vault, "relay.example", nil))
	check(t, IssueSensor(relay, "branch-7", sensor))
	ca, err := openAuthority(vault)
	check(t, err)
	stolen, err := openAuthority(relay)
	check(t, err)
	his, err := newAuthority("relay.example, next") // the name proves nothing
	check(t, err)
	next, err := newAuthority("relay.example, next")
	check(t, err)
	as := func(*x509.Certificate) {}
	for _, c := range []struct {
		what     string
		announce [][]byte
		good     bool
	}{
		{"his own", [][]byte{his.cert.Raw}, false},
		{"his own beside the CA", [][]byte{his.cert.Raw, ca.cert.Raw}, false},
		{"the CA, and his own behind it", [][]byte{ca.cert.Raw, his.cert.Raw}, false},
		{"one of the intermediate's key", [][]byte{selfSigned(t, stolen), stolen.cert.Raw}, false},
		{"the intermediate itself", [][]byte{stolen.cert.Raw}, false},
		{"a bridge by the intermediate", [][]byte{his.cert.Raw, bridge(t, stolen, his, as)}, false},
		{"a bridge by himself", [][]byte{his.cert.Raw, bridge(t, his, his, func(c *x509.Certificate) { c.MaxPathLen = 1 })}, false},
		{"a bridge to another key", [][]byte{his.cert.Raw, ca.cert.Raw, bridge(t, ca, next, as)}, false},
		{"a bridge to another name", [][]byte{next.cert.Raw, bridge(t, ca, next, func(c *x509.Certificate) { c.Subject.CommonName, c.RawSubject = "x", nil })}, false},
		{"a bridge that is over", [][]byte{next.cert.Raw, bridge(t, ca, next, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })}, false},
		{"a bridge alone", [][]byte{bridge(t, ca, next, as)}, false},
		{"two, and a bridge to one", [][]byte{next.cert.Raw, his.cert.Raw, bridge(t, ca, next, as)}, false},
		{"a bridge by the CA", [][]byte{next.cert.Raw, ca.cert.Raw, bridge(t, ca, next, as)}, true},
	} {
		agent, err := OpenSensor(sensor, "")
		check(t, err)
		before, err := os.ReadFile(filepath.Join(sensor, CAFile))
		check(t, err)
		changed, err := agent.Trust(c.announce)
		after, e := os.ReadFile(filepath.Join(sensor, CAFile))
		check(t, e)
		switch {
		case c.good && (err != nil || !changed || len(agent.roots) != 2 || len(decodeCerts(after)) != 2):
			t.Errorf("%s is not believed: %v", c.what, err)
		case !c.good && (err == nil || changed || len(agent.roots) != 1 || !bytes.Equal(before, after)):
			t.Errorf("%s is believed", c.what)
		}
	}
}

// TestARelayDoesNotAnnounceWhatItDoesNotComeFrom: one wrong copy of ca.pem on
// the relay would have every session judged, and every agent told, by it.
func TestARelayDoesNotAnnounceWhatItDoesNotComeFrom(t *testing.T) {
	dir, other := filepath.Join(t.TempDir(), "relay"), filepath.Join(t.TempDir(), "other")
	check(t, Init(dir, "relay.example", nil))
	check(t, Init(other, "relay.example", nil))
	trust, err := LoadTrust(dir)
	check(t, err)
	check(t, trust.Valid())
	text, err := os.ReadFile(filepath.Join(other, CAFile))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, CAFile), text, 0o600))
	trust, err = LoadTrust(dir)
	check(t, err)
	if err := trust.Valid(); err == nil || !strings.Contains(err.Error(), CAFile) {
		t.Errorf("the authorities of another relay are valid: %v", err)
	}
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
