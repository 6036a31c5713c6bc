package certs_test

import (
	"crypto"
	"path/filepath"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// keyOf is the key of a sensor's folder, as its thief has it.
func keyOf(t *testing.T, dir string) crypto.Signer {
	t.Helper()
	pair, err := certs.LoadKeypair(filepath.Join(dir, certs.SensorCert), filepath.Join(dir, certs.SensorKey))
	must(t, err)
	return pair.Certificate().PrivateKey.(crypto.Signer)
}

// TestNoCertificateIsRenewedForAnOldKey: what is stolen shall end some day. The
// first row fails without the comparison with old in Renewer.sign, the second
// without its look at the revocations.
func TestNoCertificateIsRenewedForAnOldKey(t *testing.T) {
	h := newHouse(t)
	s, dir := h.sensor("branch-7")
	_, stolen := h.sensor("branch-8")
	_, err := certs.RevokeName(h.data, certs.SensorSubject("branch-8"))
	must(t, err)
	before := len(recordOf(t, h.data, "branch-7").Certificates)
	for what, key := range map[string]crypto.Signer{"its own": keyOf(t, dir), "a revoked one": keyOf(t, stolen)} {
		if chain, err := h.renewer(time.Hour).Renew(shownBy(t, s), request(t, key), ""); err == nil {
			t.Errorf("%s is signed again, until %s", what, chain[0].NotAfter)
		} else {
			wants(t, err, "fresh")
		}
	}
	if n := len(recordOf(t, h.data, "branch-7").Certificates); n != before {
		t.Errorf("%d certificates more in the registry", n-before)
	}
	if _, err := h.renewer(time.Hour).Renew(shownBy(t, s), request(t, poiptest.NewKey(t)), ""); err != nil {
		t.Errorf("a fresh key: %v", err)
	}
}

func recordOf(t *testing.T, data string, name auth.SensorName) certs.Record {
	t.Helper()
	record, err := certs.OpenRegistry(data).Lookup(certs.SensorSubject(name))
	must(t, err)
	return record
}

// TestNobodyJoinsWithARevokedKey: under no other name either; and the token is
// still good for who has a key of his own. It fails without the revocations in
// admission.grant.
func TestNobodyJoinsWithARevokedKey(t *testing.T) {
	overBoth(t, func(t *testing.T, network string) {
		d := openDoor(t)
		stolen := filepath.Join(t.TempDir(), "branch-8")
		must(t, certs.IssueSensor(d.data, "branch-8", stolen))
		_, err := certs.RevokeName(d.data, certs.SensorSubject("branch-8"))
		must(t, err)
		token := d.token(network, "branch-7", false)
		csr := request(t, keyOf(t, stolen))
		conn := d.dialJoining(network)
		if kind, refusal := say(t, conn, joinFrame(t, conn, token, csr, csr)); kind != wire.TypeRefusal || refusal.Code != wire.CodeProtocol {
			t.Errorf("answered by %v, %+v", kind, refusal)
		}
		if n := d.issued("branch-7"); n > 0 {
			t.Errorf("%d certificates", n)
		}
		_, err = (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
		must(t, err)
	})
}
