package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poip/auth"
	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
)

// keptRelay is a keeper at work, without a relay that serves anybody.
func keptRelay(t *testing.T) (k *keeper, data string, said *bytes.Buffer) {
	t.Helper()
	data, config := initialized(t, "any")
	said = new(bytes.Buffer)
	log := slog.New(slog.NewTextHandler(said, nil))
	cfg, err := loadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if k, err = newKeeper(cfg, log); err != nil {
		t.Fatal(err)
	}
	record, err := audit.Open(filepath.Join(data, audit.File), audit.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { record.Close() })
	options := broker.Options{Log: log, Audit: record}
	k.decide(&options)
	if k.broker, err = broker.New(cfg, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // run and end, which closes the sockets
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := k.broker.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return k, data, said
}

func (k *keeper) serial() string { return certs.SerialOf(k.inForce.Load().Relay().Certificate().Leaf) }

// TestRelayRenewsItsCertificateWhileItRuns: at two thirds of its life, and what
// it shows from then on is the new one, which the audit log says too. Without
// renew in tend it expires; without certified in use nobody would know.
func TestRelayRenewsItsCertificateWhileItRuns(t *testing.T) {
	k, data, said := keptRelay(t)
	leaf, first := k.inForce.Load().Relay().Certificate().Leaf, k.serial()
	due := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
	k.tend(due.Add(-time.Minute))
	if k.serial() != first {
		t.Error("renewed before it is due")
	}
	k.tend(due.Add(time.Minute))
	if k.serial() == first {
		t.Errorf("not renewed: %s", said)
	}
	config, err := k.inForce.Load().IntakeTLS().GetCertificate(nil)
	if err != nil || certs.SerialOf(config.Leaf) != k.serial() {
		t.Errorf("shows another certificate: %v", err)
	}
	renewed := k.audited(t, data, audit.Renewed)
	if len(renewed) != 1 || renewed[0].Actor != "relay" || renewed[0].Serial != k.serial() || renewed[0].NotAfter == nil {
		t.Errorf("the audit log says %+v", renewed)
	}
}

// audited are the lines of one kind in the audit log, which is closed.
func (k *keeper) audited(t *testing.T, data string, event audit.Event) (out []audit.Entry) {
	t.Helper()
	if err := k.audit.Close(); err != nil {
		t.Fatal(err)
	}
	for _, e := range auditLines(t, filepath.Join(data, audit.File)) {
		if e.Event == event {
			out = append(out, e)
		}
	}
	return out
}

// TestRelayThatCannotRenewIsLoud: at once, once a minute, and louder when half
// of the time for it is over.
func TestRelayThatCannotRenewIsLoud(t *testing.T) {
	k, data, said := keptRelay(t)
	if err := os.Remove(filepath.Join(data, certs.CAKey)); err != nil {
		t.Fatal(err)
	}
	leaf := k.inForce.Load().Relay().Certificate().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	for _, c := range []struct {
		at    time.Time
		level string // empty: nothing new
	}{
		{leaf.NotBefore.Add(life * 3 / 4), "level=WARN"},
		{leaf.NotBefore.Add(life*3/4 + time.Second), ""},
		{leaf.NotBefore.Add(life*3/4 + 2*time.Minute), "level=WARN"},
		{leaf.NotAfter.Add(-life / 10), "level=ERROR"},
	} {
		said.Reset()
		k.tend(c.at)
		if text := said.String(); c.level == "" && text != "" || !strings.Contains(text, c.level) {
			t.Errorf("at %s: %q, want %s", c.at, text, c.level)
		}
	}
	if failed := k.audited(t, data, audit.RenewalRefused); len(failed) == 0 || failed[0].Actor != "relay" {
		t.Errorf("the audit log says %+v", failed)
	}
}

// issued makes a certificate for a sensor.
func issued(t *testing.T, data, sensor string) (chain []*x509.Certificate) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), sensor)
	if err := certs.IssueSensor(data, auth.SensorName(sensor), dir); err != nil {
		t.Fatal(err)
	}
	pair, err := certs.LoadKeypair(filepath.Join(dir, certs.SensorCert), filepath.Join(dir, certs.SensorKey))
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{pair.Certificate().Leaf}
}

// TestRevocationsHoldWhateverElseIsWrong: a relay whose own certificate is of no
// use ends the sessions of who is revoked. Without keeper.revoke they go on.
func TestRevocationsHoldWhateverElseIsWrong(t *testing.T) {
	k, data, said := keptRelay(t)
	chain := issued(t, data, "branch-7")
	write(t, filepath.Join(data, certs.RelayCert), []byte("damaged"))
	k.tend(time.Now())
	if err := k.inForce.Load().Standing(chain); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.RevokeName(data, certs.SensorSubject("branch-7")); err != nil {
		t.Fatal(err)
	}
	k.tend(time.Now())
	if err := k.inForce.Load().Standing(chain); err == nil {
		t.Errorf("a revoked sensor stays: %s", said)
	}
	inForce := k.inForce.Load()
	k.tend(time.Now())
	if k.inForce.Load() != inForce {
		t.Error("everybody is judged anew although nothing has changed")
	}
}

// TestRevocationsThatAreGoneStayInForce: a list that is suddenly empty, or not
// there, or of nobody any more, is damage. It fails without Follows in keeper.load,
// and, when something else is wrong too, without Follows in Trust.Revoking.
func TestRevocationsThatAreGoneStayInForce(t *testing.T) {
	k, data, said := keptRelay(t)
	chain := issued(t, data, "branch-7")
	if _, err := certs.RevokeName(data, certs.SensorSubject("branch-7")); err != nil {
		t.Fatal(err)
	}
	k.tend(time.Now())
	list, relay := filepath.Join(data, certs.RevocationsFile), filepath.Join(data, certs.RelayCert)
	for what, damage := range map[string]func(){
		"gone":                               func() { os.Remove(list) },
		"of nobody":                          func() { write(t, list, []byte(`{"version":1}`)) },
		"of nobody, and the relay's is bad":  func() { write(t, list, []byte(`{"version":1}`)); write(t, relay, []byte("damaged")) },
		"gone, and the relay's is bad again": func() { os.Remove(list); write(t, relay, []byte("damaged again")) },
	} {
		good, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := os.ReadFile(relay)
		if err != nil {
			t.Fatal(err)
		}
		said.Reset()
		damage()
		k.tend(time.Now().Add(time.Hour)) // an hour, so that it complains again
		if err := k.inForce.Load().Standing(chain); err == nil {
			t.Errorf("%s: who was revoked is let in again", what)
		}
		if !strings.Contains(said.String(), "level=ERROR") {
			t.Errorf("%s: nobody is told: %q", what, said)
		}
		write(t, list, good)
		write(t, relay, ours)
		k.tend(time.Now())
	}
}

// TestFilesThatChangeAreTakenIntoUse: without a signal, when they are good.
func TestFilesThatChangeAreTakenIntoUse(t *testing.T) {
	k, data, said := keptRelay(t)
	before := k.inForce.Load()
	k.tend(time.Now())
	if k.inForce.Load() != before {
		t.Error("loaded anew although nothing has changed")
	}
	revoked := filepath.Join(data, certs.RevocationsFile)
	write(t, revoked, []byte("{"))
	k.tend(time.Now())
	if k.inForce.Load() != before || !strings.Contains(said.String(), certs.RevocationsFile) {
		t.Errorf("took what it cannot read: %s", said)
	}
	if err := os.Remove(revoked); err != nil {
		t.Fatal(err)
	}
	if err := certs.Rotate(data, "", time.Hour); err != nil {
		t.Fatal(err)
	}
	k.tend(time.Now())
	if now := k.inForce.Load(); now == before || len(now.Authorities()) != 2 {
		t.Errorf("has not noticed another authority: %s", said)
	}
}
