package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/wire"
)

func csrFor(tb testing.TB, key crypto.Signer) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, new(x509.CertificateRequest), key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// What a stranger sends as a request is signed, if at all, for a key that is
// strong and his own, and for no name but the one that is ours to give.
func FuzzCSR(f *testing.F) {
	small := newTestKey(f)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range []crypto.Signer{small, edwards, long} {
		f.Add(csrFor(f, key))
	}
	f.Add([]byte{0x30, 0x80, 0, 0})
	ca, err := newAuthority("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	issuer := &Issuer{ca}
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := CheckCSR(der)
		if err != nil {
			return
		}
		cert, err := issuer.Sign(SensorSubject("branch-7"), csr, time.Hour)
		if err != nil {
			t.Fatalf("took what cannot be signed: %v", err)
		}
		if err := checkStrength(cert); err != nil {
			t.Error(err)
		}
		name, err := auth.SensorOf(cert)
		if err != nil || name != "branch-7" || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || len(cert.URIs) != 1 || cert.IsCA {
			t.Errorf("signed %v %v %v %v", cert.DNSNames, cert.URIs, name, err)
		}
	})
}

// FuzzWelcome is a hostile relay, which has the pinned CA all the same: the
// sensor takes no certificate but one for its own key and name.
func FuzzWelcome(f *testing.F) {
	dir := filepath.Join(f.TempDir(), "relay")
	if err := Init(dir, "relay.test", nil); err != nil {
		f.Fatal(err)
	}
	issuer, err := OpenIssuer(dir)
	if err != nil {
		f.Fatal(err)
	}
	root := issuer.authority.cert
	key := newTestKey(f)
	other := newTestKey(f)
	csr := csrFor(f, key)
	add := func(who Subject, request []byte, roots [][]byte) {
		parsed, err := CheckCSR(request)
		if err != nil {
			f.Fatal(err)
		}
		leaf, err := issuer.Sign(who, parsed, time.Hour)
		if err != nil {
			f.Fatal(err)
		}
		frame, err := wire.AppendWelcome(nil, wire.Welcome{Chain: issuer.Chain(leaf), Authorities: roots})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(wire.TypeWelcome), frame[wire.FrameHeaderLen:])
	}
	stranger, err := newAuthority("stranger")
	if err != nil {
		f.Fatal(err)
	}
	add(SensorSubject("branch-7"), csr, issuer.Authorities())
	add(SensorSubject("branch-8"), csr, issuer.Authorities())
	add(AnalystSubject("branch-7"), csr, issuer.Authorities())
	add(SensorSubject("branch-7"), csrFor(f, other), issuer.Authorities())
	add(SensorSubject("branch-7"), csr, [][]byte{stranger.cert.Raw})
	f.Add(byte(wire.TypeRefusal), []byte{2, 0, 2, 0, 'n', 'o'})
	f.Add(byte(wire.TypeJoin), []byte{1})
	j := &Joiner{Token: auth.Token{Sensor: "branch-7"}}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		g, err := j.read(wire.Type(kind), payload, root, csr)
		if err != nil {
			return
		}
		name, err := auth.SensorOf(g.leaf)
		if err != nil || name != "branch-7" || !key.PublicKey.Equal(g.leaf.PublicKey) {
			t.Errorf("took a certificate for %q, %v", name, err)
		}
		found := false
		for _, der := range g.Authorities {
			ca, err := x509.ParseCertificate(der)
			if err != nil || !ca.IsCA {
				t.Errorf("took an authority that is none: %v", err)
			}
			found = found || root.Equal(ca)
		}
		if !found {
			t.Error("took authorities without the one that it knows")
		}
	})
}

// The seeds of FuzzWelcome that are good, or wrong in one thing.
func TestASensorTakesItsOwnCertificateOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "relay")
	if err := Init(dir, "relay.test", nil); err != nil {
		t.Fatal(err)
	}
	issuer, err := OpenIssuer(dir)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newAuthority("stranger")
	if err != nil {
		t.Fatal(err)
	}
	key, other := newTestKey(t), newTestKey(t)
	ours, theirs := csrFor(t, key), csrFor(t, other)
	leafOf := func(i *Issuer, who Subject, der []byte, life time.Duration) [][]byte {
		csr, err := CheckCSR(der)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := i.Sign(who, csr, life)
		if err != nil {
			t.Fatal(err)
		}
		return i.Chain(leaf)
	}
	me := SensorSubject("branch-7")
	behind := &Joiner{Token: auth.Token{Sensor: "branch-7"}, Now: func() time.Time { return time.Now().Add(-time.Hour) }}
	w := wire.Welcome{Chain: leafOf(issuer, me, ours, 24*time.Hour), Authorities: issuer.Authorities()}
	if _, err := behind.check(w, issuer.authority.cert, ours); err != nil {
		t.Errorf("its own, where its clock is behind a little: %v", err)
	}
	for _, c := range []struct {
		what string
		w    wire.Welcome
		good bool
	}{
		{"its own", wire.Welcome{Chain: leafOf(issuer, me, ours, time.Hour), Authorities: issuer.Authorities()}, true},
		{"another name", wire.Welcome{Chain: leafOf(issuer, SensorSubject("branch-8"), ours, time.Hour), Authorities: issuer.Authorities()}, false},
		{"an analyst's", wire.Welcome{Chain: leafOf(issuer, AnalystSubject("branch-7"), ours, time.Hour), Authorities: issuer.Authorities()}, false},
		{"another key", wire.Welcome{Chain: leafOf(issuer, me, theirs, time.Hour), Authorities: issuer.Authorities()}, false},
		{"another authority", wire.Welcome{Chain: leafOf(&Issuer{stranger}, me, ours, time.Hour), Authorities: issuer.Authorities()}, false},
		{"other authorities", wire.Welcome{Chain: leafOf(issuer, me, ours, time.Hour), Authorities: [][]byte{stranger.cert.Raw}}, false},
		{"an authority that is none", wire.Welcome{Chain: leafOf(issuer, me, ours, time.Hour), Authorities: append(issuer.Authorities(), leafOf(issuer, me, ours, time.Hour)[0])}, false},
		{"one that is over", wire.Welcome{Chain: leafOf(issuer, me, ours, -time.Hour), Authorities: issuer.Authorities()}, false},
		{"the authority itself", wire.Welcome{Chain: issuer.Authorities(), Authorities: issuer.Authorities()}, false},
		{"nonsense", wire.Welcome{Chain: [][]byte{{1}}, Authorities: [][]byte{{2}}}, false},
	} {
		frame, err := wire.AppendWelcome(nil, c.w)
		if err != nil {
			t.Fatal(err)
		}
		j := &Joiner{Token: auth.Token{Sensor: "branch-7"}}
		_, err = j.read(wire.TypeWelcome, frame[wire.FrameHeaderLen:], issuer.authority.cert, ours)
		if (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// A key that takes long to verify anything with is refused before anything is:
// this request's signature is nonsense, and nobody has looked. Fails where
// CheckCSR verifies first: each such request costs a tenth of a second.
func TestHugeKeysVerifyNothing(t *testing.T) {
	n := new(big.Int).Lsh(big.NewInt(1), 16000)
	spki, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 1<<31 - 1})
	if err != nil {
		t.Fatal(err)
	}
	type body struct {
		Version      int
		Subject, Key asn1.RawValue
		Attributes   []asn1.RawValue `asn1:"tag:0"`
	}
	der, err := asn1.Marshal(struct {
		Body      body
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		body{Subject: asn1.RawValue{FullBytes: []byte{0x30, 0}}, Key: asn1.RawValue{FullBytes: spki}},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}, // sha256WithRSAEncryption
		asn1.BitString{Bytes: make([]byte, 2001), BitLength: 8 * 2001},
	})
	if err != nil || len(der) > wire.MaxJoinLen-wire.JoinHeaderLen {
		t.Fatalf("%d bytes do not fit: %v", len(der), err)
	}
	if _, err := CheckCSR(der); err == nil || !strings.Contains(err.Error(), "more than 8192 bits") {
		t.Errorf("refused with %v", err)
	}
}

func newTestKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}
