//go:build unix

package certs_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"poip/certs"
)

// hold is another process's lock on a folder, a command's that was stopped.
func hold(t *testing.T, folder string) (release func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	return func() { f.Close() }
}

// TestAStoppedCommandHoldsNobodyUp: while somebody has stopped a command with ^Z,
// what a relay does gives up within a second or two, so that it goes on noticing
// revocations, and ends in time; and succeeds later. A command waits for longer.
// Without LOCK_NB everything hangs.
func TestAStoppedCommandHoldsNobodyUp(t *testing.T) {
	h := newHouse(t)
	s, _ := h.sensor("branch-7")
	leaf := h.trust().Relay().Certificate().Leaf
	token := openDoorOf(t, h.data).token("tls", "branch-8", false) // it stays good
	token.Relay = "relay.example"
	for _, c := range []struct {
		what, folder string
		do           func() error
	}{
		{"a sensor's renewal", ".", func() error { return h.renew(h.renewer(time.Hour), s) }},
		{"a sensor's renewal", "sensors", func() error { return h.renew(h.renewer(time.Hour), s) }},
		{"the relay's renewal", ".", func() error { _, err := certs.RenewRelay(h.data, leaf.NotAfter, time.Hour); return err }},
		{"joining", ".", func() error {
			_, err := (&certs.Joiner{Token: token, Dir: newFolder(t)}).Join(t.Context())
			return err
		}},
	} {
		release := hold(t, filepath.Join(h.data, c.folder))
		failed := make(chan error, 1)
		go func() { failed <- c.do() }()
		select {
		case err := <-failed:
			if err == nil {
				t.Errorf("%s did not wait for the lock in %s", c.what, c.folder)
			}
		case <-time.After(4 * time.Second):
			t.Errorf("%s still waits for the lock in %s", c.what, c.folder)
		}
		release()
		if err := c.do(); err != nil {
			t.Errorf("%s fails with the lock released: %v", c.what, err)
		}
	}

	release := hold(t, h.data)
	time.AfterFunc(2*time.Second, release)
	_, err := certs.RevokeName(h.data, certs.SensorSubject("branch-7"))
	must(t, err)
	if err := h.trust().Standing([]*x509.Certificate{shownBy(t, s)[0]}); err == nil {
		t.Error("not revoked")
	}
}
