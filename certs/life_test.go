package certs_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/certs"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// a house is a relay's data folder and sensors' ones, as commands leave them.
type house struct {
	t    *testing.T
	data string
}

func newHouse(t *testing.T) *house { return &house{t, initialized(t)} }

// sensor issues an identity and opens it.
func (h *house) sensor(name string) (*certs.Sensor, string) {
	h.t.Helper()
	out := filepath.Join(h.t.TempDir(), name)
	must(h.t, certs.IssueSensor(h.data, auth.SensorName(name), out))
	return h.open(out), out
}

func (h *house) open(dir string) *certs.Sensor {
	h.t.Helper()
	s, err := certs.OpenSensor(dir, "relay.example")
	must(h.t, err)
	return s
}

func (h *house) trust() *certs.Trust {
	h.t.Helper()
	trust, err := certs.LoadTrust(h.data)
	must(h.t, err)
	return trust
}

// meet is a handshake of a sensor with the relay as it is now.
func (h *house) meet(client *tls.Config) (tls.ConnectionState, error) {
	h.t.Helper()
	return handshake(h.t, certs.Following(func() *tls.Config { return h.trust().IntakeTLS() }), client)
}

func (h *house) renewer(life time.Duration) *certs.Renewer {
	return &certs.Renewer{Data: h.data, Life: func() time.Duration { return life }}
}

// shownBy is what a sensor shows.
func shownBy(t *testing.T, s *certs.Sensor) []*x509.Certificate {
	t.Helper()
	pair, err := s.TLS().GetClientCertificate(nil)
	must(t, err)
	chain := []*x509.Certificate{pair.Leaf}
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		chain = append(chain, c)
	}
	return chain
}

// renew carries request and answer between the two, as a session would.
func (h *house) renew(r *certs.Renewer, s *certs.Sensor) error {
	h.t.Helper()
	request, err := s.Request()
	must(h.t, err)
	chain, err := r.Renew(shownBy(h.t, s), request, "192.0.2.7:1")
	if err != nil {
		return err
	}
	var ders [][]byte
	for _, c := range chain {
		ders = append(ders, c.Raw)
	}
	return s.Accept(ders)
}

func codeOf(err error) wire.Code {
	var refusal wire.Refusal
	errors.As(err, &refusal)
	return refusal.Code
}

func TestSensorRenewsItsCertificate(t *testing.T) {
	h := newHouse(t)
	s, dir := h.sensor("branch-7")
	if from, to := s.Life(); s.Due(time.Now()) || !s.Due(from.Add(to.Sub(from)*2/3+time.Second)) || s.Due(from.Add(to.Sub(from)*2/3-time.Minute)) {
		t.Error("is not due at two thirds of its life")
	}
	before, config := shownBy(t, s)[0], s.TLS()
	must(t, h.renew(h.renewer(30*time.Second), s))
	after := shownBy(t, s)[0]
	if certs.SerialOf(after) == certs.SerialOf(before) || certs.KeyOf(after) == certs.KeyOf(before) || s.TLS() == config {
		t.Error("number, key and configuration are those of before")
	}
	if left := time.Until(after.NotAfter); left > 30*time.Second || left < 0 {
		t.Errorf("lasts %s", left)
	}
	if s.Due(time.Now()) || !s.Due(time.Now().Add(20*time.Second)) {
		t.Error("a life of 30 s is not due at two thirds")
	}
	_, err := h.meet(s.TLS())
	must(t, err)
	again := h.open(dir) // from the disk
	if certs.SerialOf(shownBy(t, again)[0]) != certs.SerialOf(after) {
		t.Error("the disk has another one")
	}
	record, err := certs.OpenRegistry(h.data).Lookup(certs.SensorSubject("branch-7"))
	must(t, err)
	last := record.Certificates[len(record.Certificates)-1]
	if last.How != certs.HowRenewed || last.Serial != certs.SerialOf(after) || last.From != certs.SerialOf(before) || last.Remote != "192.0.2.7:1" {
		t.Errorf("the registry says %+v", last)
	}
}

// TestRenewalIsForWhoAsks: the name is that of the certificate shown, whatever
// the request says, and the request is one's own.
func TestRenewalIsForWhoAsks(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	forged, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"relay.example"}}, key)
	must(t, err)
	chain, err := h.renewer(time.Hour).Renew(shownBy(t, s), forged, "")
	must(t, err)
	if name, err := auth.SensorOf(chain[0]); err != nil || name != "branch-7" || len(chain[0].DNSNames) > 0 || chain[0].IsCA {
		t.Errorf("signed %q %v %v, %v", name, chain[0].DNSNames, chain[0].IsCA, err)
	}
	forged[len(forged)-1] ^= 1
	if _, err := h.renewer(time.Hour).Renew(shownBy(t, s), forged, ""); err == nil {
		t.Error("signed a request that its key has not")
	}
	other, _ := h.sensor("branch-8")
	if _, err := other.Request(); err != nil {
		t.Fatal(err)
	}
	wants(t, other.Accept([][]byte{chain[0].Raw}), "another key")
	wants(t, s.Accept([][]byte{chain[0].Raw}), "none was asked for")
}

func TestRenewalHasABound(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	r := h.renewer(time.Hour)
	for range 8 {
		must(t, h.renew(r, s))
	}
	wants(t, h.renew(r, s), "too often")
}

// TestReplacingAPairIsSafeAtEveryStep: whoever dies between two steps leaves a
// pair that fits. Without the second look of loadPair, the middle one does not.
func TestReplacingAPairIsSafeAtEveryStep(t *testing.T) {
	h := newHouse(t)
	s, dir := h.sensor("branch-7")
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return text
	}
	oldCert, oldKey := read(certs.SensorCert), read(certs.SensorKey)
	must(t, h.renew(h.renewer(time.Hour), s))
	newCert, newKey := read(certs.SensorCert), read(certs.SensorKey)
	put := func(name string, text []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	for _, step := range []struct {
		what      string
		cert, key []byte
		next      []byte
		want      []byte
	}{
		{"nothing done", oldCert, oldKey, nil, oldCert},
		{"the next key is torn", oldCert, oldKey, newKey[:20], oldCert},
		{"the next key is there", oldCert, oldKey, newKey, oldCert},
		{"the certificate is replaced", newCert, oldKey, newKey, newCert},
		{"all done", newCert, newKey, nil, newCert},
	} {
		put(certs.SensorCert, step.cert)
		put(certs.SensorKey, step.key)
		os.Remove(filepath.Join(dir, certs.SensorKey+".next"))
		if step.next != nil {
			put(certs.SensorKey+".next", step.next)
		}
		s, err := certs.OpenSensor(dir, "")
		if err != nil {
			t.Errorf("%s: %v", step.what, err)
			continue
		}
		block, _ := pem.Decode(step.want)
		if !bytes.Equal(shownBy(t, s)[0].Raw, block.Bytes) {
			t.Errorf("%s: another certificate than expected", step.what)
		}
		must(t, h.renew(h.renewer(time.Hour), s)) // goes on from there
		_, err = h.meet(h.open(dir).TLS())
		must(t, err)
	}
}

// TestOperatorReplacesTheSensorsFiles: who has joined anew need not restart the
// agent; half of it does no harm.
func TestOperatorReplacesTheSensorsFiles(t *testing.T) {
	h := newHouse(t)
	s, dir := h.sensor("branch-7")
	fresh := filepath.Join(t.TempDir(), "fresh")
	must(t, certs.IssueSensor(h.data, "branch-7", fresh))
	before := s.TLS()
	copyFile(t, filepath.Join(fresh, certs.SensorCert), filepath.Join(dir, certs.SensorCert))
	if s.TLS() != before {
		t.Error("took a certificate without its key")
	}
	copyFile(t, filepath.Join(fresh, certs.SensorKey), filepath.Join(dir, certs.SensorKey))
	if s.TLS() == before {
		t.Error("did not notice the new files")
	}
	_, err := h.meet(s.TLS())
	must(t, err)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, text, 0o600))
}

// caching lets a client resume sessions.
func caching(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	return cfg
}

// TestRevokedSensorIsRefused: fresh and with a ticket, by name and by number.
// Without Trust.judging both are let in.
func TestRevokedSensorIsRefused(t *testing.T) {
	for what, revoke := range map[string]func(h *house, s *certs.Sensor) error{
		"by name": func(h *house, _ *certs.Sensor) error {
			_, err := certs.RevokeName(h.data, certs.SensorSubject("branch-7"))
			return err
		},
		"by number": func(h *house, s *certs.Sensor) error {
			_, _, err := certs.RevokeSerial(h.data, strings.ToUpper(certs.SerialOf(shownBy(t, s)[0])))
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHouse(t)
			s, _ := h.sensor("branch-7")
			other, _ := h.sensor("branch-8")
			resuming := caching(s.TLS())
			server := h.trust()
			following := certs.Following(func() *tls.Config { return server.IntakeTLS() })
			for _, want := range []bool{false, true} {
				state, err := handshake(t, following, resuming)
				must(t, err)
				if state.DidResume != want {
					t.Fatalf("resumed: %t, want %t", state.DidResume, want)
				}
			}
			must(t, revoke(h, s))
			server = h.trust()
			_, err := handshake(t, following, resuming)
			wants(t, err, "revoked")
			_, err = handshake(t, following, s.TLS())
			wants(t, err, "revoked")
			if code := codeOf(server.Standing(shownBy(t, s))); code != wire.CodeRevoked {
				t.Errorf("a live session gets %s", code)
			}
			_, err = handshake(t, following, other.TLS())
			must(t, err)
			if err := h.renew(h.renewer(time.Hour), s); codeOf(err) != wire.CodeRevoked {
				t.Errorf("a revoked certificate is renewed: %v", err)
			}
			again, _ := h.sensor("branch-7")
			_, err = h.meet(again.TLS())
			must(t, err)
		})
	}
}

// TestRevocationCoversWhatWasRenewed: a thief who has renewed a stolen
// certificate goes with it. What came before stays.
func TestRevocationCoversWhatWasRenewed(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	first := shownBy(t, s)
	r := h.renewer(time.Hour)
	must(t, h.renew(r, s))
	second := shownBy(t, s)
	must(t, h.renew(r, s))
	third := shownBy(t, s)
	_, serials, err := certs.RevokeSerial(h.data, certs.SerialOf(second[0]))
	must(t, err)
	if len(serials) != 2 {
		t.Errorf("revoked %v", serials)
	}
	trust := h.trust()
	for what, c := range map[string]struct {
		chain []*x509.Certificate
		want  wire.Code
	}{"first": {first, 0}, "second": {second, wire.CodeRevoked}, "third": {third, wire.CodeRevoked}} {
		if got := codeOf(trust.Standing(c.chain)); got != c.want {
			t.Errorf("the %s: %s", what, got)
		}
	}
}

// TestRevokedNameNeedsARegisteredCertificate: one that the registry has never
// heard of is not known to be good. Without the look into the registry it is.
func TestRevokedNameNeedsARegisteredCertificate(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	must(t, os.Remove(filepath.Join(h.data, "sensors", "branch-7.json")))
	must(t, h.trust().Standing(shownBy(t, s)))
	known, err := certs.RevokeName(h.data, certs.SensorSubject("branch-7"))
	must(t, err)
	if code := codeOf(h.trust().Standing(shownBy(t, s))); known != 0 || code != wire.CodeRevoked {
		t.Errorf("%d were known, it gets %s", known, code)
	}
}

func TestDamagedRevocationsFailClosed(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	_, err := certs.RevokeName(h.data, certs.SensorSubject("branch-7"))
	must(t, err)
	before := h.trust()
	path := filepath.Join(h.data, certs.RevocationsFile)
	good, err := os.ReadFile(path)
	must(t, err)
	for _, bad := range []string{"", "{", "[]", `{"version":2}`, `{"version":1,"certificates":[{"serial":"x"}]}`, `{"version":1,"unknown":1}`, string(good[:len(good)/2])} {
		must(t, os.WriteFile(path, []byte(bad), 0o600))
		if _, err := certs.LoadTrust(h.data); err == nil {
			t.Errorf("loaded with %q", bad)
		}
		if err := h.renew(h.renewer(time.Hour), s); err == nil {
			t.Errorf("renewed with %q", bad)
		}
		if _, err := certs.RevokeName(h.data, certs.SensorSubject("x")); err == nil {
			t.Errorf("wrote over %q", bad)
		}
	}
	must(t, os.Remove(path))
	wants(t, h.trust().Follows(before), certs.RevocationsFile)
}

func TestRevokeWantsWhatThereIs(t *testing.T) {
	h := newHouse(t)
	for _, bad := range []string{"", "xyz", "-1", "0", "12", strings.Repeat("a", 65)} {
		if _, _, err := certs.RevokeSerial(h.data, bad); err == nil {
			t.Errorf("revoked %q", bad)
		}
	}
}

// onlyTrusting is a sensor's configuration with some of the authorities.
func onlyTrusting(t *testing.T, s *certs.Sensor, ders ...[]byte) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		pool.AddCert(c)
	}
	cfg := s.TLS().Clone()
	cfg.RootCAs = pool
	return cfg
}

// TestRotationTurnsNobodyAway: agents that trust the old authority only, the
// new one only, or both, with certificates of either, all get in while both
// are trusted. Without the bridge those of the old one refuse the relay.
func TestRotationTurnsNobodyAway(t *testing.T) {
	h := newHouse(t)
	old, dir := h.sensor("branch-7")
	oldCA := h.trust().Authorities()[0]
	if old.Due(time.Now()) {
		t.Error("due before anything happened")
	}
	must(t, certs.Rotate(h.data, "", time.Hour))
	authorities := h.trust().Authorities()
	if len(authorities) != 2 || !bytes.Equal(authorities[1], oldCA) {
		t.Fatalf("%d authorities", len(authorities))
	}
	fresh, _ := h.sensor("branch-8") // of the new one
	for what, s := range map[string]*certs.Sensor{"of the old": old, "of the new": fresh} {
		for _, trusts := range [][][]byte{authorities[1:], authorities[:1], authorities} {
			if _, err := h.meet(onlyTrusting(t, s, trusts...)); err != nil {
				t.Errorf("certificate %s, %d authorities trusted: %v", what, len(trusts), err)
			}
		}
	}
	wants(t, certs.Rotate(h.data, "", time.Hour), "retire")
	changed, err := old.Trust(h.trust().Announcement())
	must(t, err)
	if !changed || !old.Due(time.Now()) {
		t.Error("who has heard of a newer authority does not renew")
	}
	if changed, err = old.Trust(h.trust().Announcement()); err != nil || changed {
		t.Errorf("the same authorities are others: %v", err)
	}
	wants(t, certs.Retire(h.data, time.Hour, false), "sensor branch-7")
	must(t, h.renew(h.renewer(time.Hour), old))
	if old.Due(time.Now()) || h.open(dir).Due(time.Now()) {
		t.Error("still due after the renewal")
	}
	must(t, certs.Retire(h.data, time.Hour, false))
	for what, s := range map[string]*certs.Sensor{"renewed": old, "new": fresh} {
		if _, err := h.meet(onlyTrusting(t, s, authorities[0])); err != nil {
			t.Errorf("after the rotation, %s: %v", what, err)
		}
	}
	must(t, certs.Rotate(h.data, "", time.Hour)) // and again
	_, err = h.meet(old.TLS())
	must(t, err)
}

// TestRetiredAuthorityIsRefused: its certificates, its tickets, and live
// sessions.
func TestRetiredAuthorityIsRefused(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	client := caching(s.TLS())
	current := h.trust()
	server := certs.Following(func() *tls.Config { return current.IntakeTLS() })
	must(t, certs.Rotate(h.data, "", time.Hour))
	current = h.trust()
	for _, want := range []bool{false, true} {
		state, err := handshake(t, server, client)
		must(t, err)
		if state.DidResume != want {
			t.Fatalf("in the overlap, resumed: %t, want %t", state.DidResume, want)
		}
	}
	must(t, certs.Retire(h.data, time.Hour, true))
	current = h.trust()
	client.InsecureSkipVerify = true // it is about what the relay thinks
	if _, err := handshake(t, server, client); err == nil {
		t.Error("a ticket of the old authority is taken")
	}
	client.ClientSessionCache = nil
	_, err := handshake(t, server, client)
	wants(t, err, "unknown authority")
	if code := codeOf(current.Standing(shownBy(t, s))); code != wire.CodeRevoked {
		t.Errorf("a live session gets %s", code)
	}
	wants(t, certs.Retire(h.data, time.Hour, true), "one authority only")
}

// TestRotationIsSafeAtEveryStep: a relay that finds the new authority without
// a certificate of it renews that by itself.
func TestRotationIsSafeAtEveryStep(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	oldRelay, oldRelayKey := filepath.Join(h.data, certs.RelayCert), filepath.Join(h.data, certs.RelayKey)
	kept := t.TempDir()
	copyFile(t, oldRelay, filepath.Join(kept, "cert"))
	copyFile(t, oldRelayKey, filepath.Join(kept, "key"))
	must(t, certs.Rotate(h.data, "", time.Hour))
	copyFile(t, filepath.Join(kept, "cert"), oldRelay) // as if the last step had not been done
	copyFile(t, filepath.Join(kept, "key"), oldRelayKey)
	trust := h.trust()
	_, err := h.meet(onlyTrusting(t, s, trust.Authorities()[1]))
	must(t, err)
	if !trust.RelayDue(time.Now()) {
		t.Fatal("the relay does not see that it needs a certificate of the new authority")
	}
	renewed, err := certs.RenewRelay(h.data, time.Now(), time.Hour)
	if err != nil || !renewed {
		t.Fatalf("renewed: %t, %v", renewed, err)
	}
	for _, ca := range h.trust().Authorities() {
		_, err = h.meet(onlyTrusting(t, s, ca))
		must(t, err)
	}
}

// TestRotationWithTheKeyElsewhere: through an intermediate, in the overlap too.
func TestRotationWithTheKeyElsewhere(t *testing.T) {
	dir := t.TempDir()
	h, offline := &house{t, filepath.Join(dir, "relay")}, filepath.Join(dir, "vault")
	must(t, certs.InitOffline(h.data, offline, "relay.example", nil))
	old, _ := h.sensor("branch-7")
	wants(t, certs.Rotate(h.data, "", time.Hour), "--offline-ca")
	must(t, certs.Rotate(h.data, offline, time.Hour))
	wants(t, certs.Rotate(h.data, offline, time.Hour), "retire")
	authorities := h.trust().Authorities()
	fresh, _ := h.sensor("branch-8")
	for what, s := range map[string]*certs.Sensor{"of the old": old, "of the new": fresh} {
		for _, trusts := range [][][]byte{authorities[1:], authorities[:1], authorities} {
			if _, err := h.meet(onlyTrusting(t, s, trusts...)); err != nil {
				t.Errorf("certificate %s, %d authorities trusted: %v", what, len(trusts), err)
			}
		}
	}
	wants(t, certs.Retire(h.data, time.Hour, false), "sensor branch-7")
	_, err := old.Trust(h.trust().Announcement())
	must(t, err)
	must(t, h.renew(h.renewer(time.Hour), old))
	must(t, certs.Retire(h.data, time.Hour, false))
	_, err = h.meet(onlyTrusting(t, old, authorities[0]))
	must(t, err)
	if _, err := os.Stat(filepath.Join(h.data, certs.CAKey)); err == nil {
		t.Error("the CA's key has come to the relay")
	}
}

func TestRelayRenewsItsOwnCertificateOnly(t *testing.T) {
	h := newHouse(t)
	if renewed, err := certs.RenewRelay(h.data, time.Now(), time.Hour); renewed || err != nil {
		t.Errorf("renewed although it is fresh: %v", err)
	}
	leaf := h.trust().Relay().Certificate().Leaf
	if at := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)*2/3 + time.Minute); !h.trust().RelayDue(at) || h.trust().RelayDue(at.Add(-2*time.Minute)) {
		t.Error("is not due at two thirds of its life")
	}
	ca := poiptest.NewCA(t) // somebody else's
	copyFile(t, filepath.Join(ca.Dir, certs.RelayCert), filepath.Join(h.data, certs.RelayCert))
	copyFile(t, filepath.Join(ca.Dir, certs.RelayKey), filepath.Join(h.data, certs.RelayKey))
	if h.trust().RelayDue(time.Now().Add(365 * 24 * time.Hour)) {
		t.Error("would replace a certificate that another authority has made")
	}
}

// TestAuthoritiesThatAreNoneAreNotTrusted: a relay that announces nonsense
// changes nothing.
func TestAuthoritiesThatAreNoneAreNotTrusted(t *testing.T) {
	h := newHouse(t)
	s, dir := h.sensor("branch-7")
	before, err := os.ReadFile(filepath.Join(dir, certs.CAFile))
	must(t, err)
	for _, bad := range [][][]byte{nil, {{1, 2, 3}}, {shownBy(t, s)[0].Raw}} {
		if changed, err := s.Trust(bad); err == nil || changed {
			t.Errorf("took %x", bad)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, certs.CAFile))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file has changed")
	}
}
