//go:build unix

package systemd_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/internal/systemd"
)

// manager is what a service manager listens at.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newManager starts one, for the environment of this test.
func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &manager{t, conn}
}

func (m *manager) next() string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

func TestTellsWhatHappens(t *testing.T) {
	m := newManager(t)
	n := systemd.Notifier{Log: slog.New(slog.DiscardHandler)}
	n.Ready("2 captures")
	n.Reloading()
	n.Stopping()
	for _, want := range []string{`^READY=1\nSTATUS=2 captures$`, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*\n?$`, `^STOPPING=1$`} {
		if got := m.next(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("told %q, want %s", got, want)
		}
	}
}

// Alive is who can do the work. It fails when Watch tells before it has looked.
func TestWatchdogHearsOnlyWhoIsAlive(t *testing.T) {
	defer goleak.VerifyNone(t)
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", "200000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(context.Background())
	looks, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		systemd.Notifier{Log: slog.New(slog.DiscardHandler)}.Watch(ctx, func() { <-looks })
	}()
	for range 3 {
		looks <- struct{}{}
		if got := m.next(); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	m.conn.SetReadDeadline(time.Now().Add(time.Second)) // five times the limit
	if n, err := m.conn.Read(make([]byte, 64)); err == nil {
		t.Errorf("told %d bytes while it was stuck", n)
	}
	cancel()
	close(looks)
	<-ended
}

func TestNobodyAsks(t *testing.T) {
	for _, unset := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		t.Setenv(unset, "")
		os.Unsetenv(unset)
	}
	var log bytes.Buffer
	n := systemd.Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}
	n.Ready("")
	n.Watch(context.Background(), func() { t.Error("looked") })
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	t.Setenv("WATCHDOG_USEC", "soon")
	n.Stopping()
	n.Watch(context.Background(), func() { t.Error("looked") })
	if strings.Count(log.String(), "level=WARN") != 2 {
		t.Errorf("logged %s", &log)
	}
}
