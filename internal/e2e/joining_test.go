package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestASensorJoinsByOneLine: a new relay, a token, one pasted line, and the
// sensor's packets arrive. The CA's key may be on the relay or elsewhere.
func TestASensorJoinsByOneLine(t *testing.T) {
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprintf("offline=%t", offline), func(t *testing.T) {
			overBoth(t, func(t *testing.T, scheme string) { joinAndSend(t, scheme, offline) })
		})
	}
}

func joinAndSend(t *testing.T, scheme string, offline bool) {
	w := &world{t: t, dir: t.TempDir()}
	init := []string{"init", "--data", w.path("relay"), "--name", "localhost"}
	if offline {
		init = append(init, "--offline-ca", w.path("safe"))
	}
	w.must("poip-relay", init...)
	if offline {
		if err := os.Rename(w.path("safe"), w.path("taken-away")); err != nil {
			t.Fatal(err)
		}
	}
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", wholeFile}))
	line := w.token(r, scheme, "branch-7")
	out, err := w.enroll(line, "branch-7")
	if err != nil {
		t.Fatalf("enroll: %v\n%s", err, out)
	}
	if !strings.Contains(out, "poip-agent run --relay "+r.intake(scheme)) {
		t.Errorf("enroll does not say how to go on:\n%s", out)
	}
	joined := r.WaitMessage("a sensor joined")
	if joined["sensor"] != "branch-7" || joined["network"] != scheme {
		t.Errorf("the relay's log says %v", joined)
	}
	f := w.startFeed(r, "branch-7", scheme)
	for range 20 {
		f.packet()
	}
	f.Stdin.Close()
	if code := f.Wait(); code != 0 {
		t.Errorf("the agent ended with code %d", code)
	}
	if got := readAll(t, r.address("plain")); !bytes.Equal(got, f.micro()) {
		t.Errorf("%d bytes arrived, not the %d that were sent", len(got), len(f.micro()))
	}
	// Used once, it is of no use to anybody.
	if out, err := w.enroll(line, "branch-8"); err == nil || !strings.Contains(out, "the token is not good") {
		t.Errorf("a second sensor joined by the same line: %v\n%s", err, out)
	}
	r.WaitLog("that the token is used", func(l logLine) bool { return l["reason"] == "the token is used" })
	w.searchFor(secretOf(line), r)
	r.stop()
}

// token makes one for where the relay listens.
func (w *world) token(r *relay, scheme, sensor string, more ...string) string {
	w.t.Helper()
	out := w.must("poip-relay", append([]string{"token", sensor, "--data", w.path("relay"), "--relay", r.intake(scheme)}, more...)...)
	line := strings.TrimSuffix(out, "\n")
	if strings.Contains(line, "\n") || !strings.HasPrefix(line, "poip-token-1 ") {
		w.t.Fatalf("token printed %q", out)
	}
	return line
}

func secretOf(line string) string { return line[strings.Index(line, "secret=")+len("secret="):] }

// enroll pastes a line, and returns what is printed. While it runs, the
// arguments and environments of all processes are searched for the secret.
func (w *world) enroll(line, sensor string) (string, error) {
	w.t.Helper()
	cmd := exec.Command(program("poip-agent"), "enroll", "--data", w.path(sensor), "--log-level", "debug")
	cmd.Stdin = strings.NewReader(line + "\n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		for _, what := range []string{"cmdline", "environ"} {
			shown, _ := filepath.Glob("/proc/[0-9]*/" + what)
			for _, path := range shown {
				if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(secretOf(line))) {
					w.t.Errorf("%s shows the secret", path)
				}
			}
		}
		select {
		case err := <-done:
			if strings.Contains(out.String(), secretOf(line)) {
				w.t.Errorf("enroll prints the secret:\n%s", out.String())
			}
			return out.String(), err
		default:
		}
	}
}

// searchFor fails where the marker stands in a file of this world, in the
// relay's log, or in a page of its administration.
func (w *world) searchFor(marker string, r *relay) {
	w.t.Helper()
	for what, text := range map[string]string{
		"the log": r.Log(), "metrics": r.get("/metrics"), "streams": r.get("/api/v1/streams"), "listeners": r.get("/api/v1/listeners"),
	} {
		if strings.Contains(text, marker) {
			w.t.Errorf("%s holds the secret", what)
		}
	}
	files := 0
	err := filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(marker)) {
			w.t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || files < 5 {
		w.t.Errorf("searched %d files: %v", files, err)
	}
}

// Of many sensors that paste the same line at the same time, one joins. It fails
// without move in certs.Tokens.take, and, for what is left of the others, without
// close in Joiner.Join.
func TestOfManySensorsWithOneLineOneJoins(t *testing.T) {
	w := newWorld(t)
	r := w.startRelay(w.relayTOML(""))
	lines := []string{w.token(r, "tls", "branch-7"), w.token(r, "quic", "branch-8")}
	var joined [2]atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			dir := w.path(fmt.Sprintf("sensor-%d", i))
			cmd := exec.Command(program("poip-agent"), "enroll", "--data", dir)
			cmd.Stdin = strings.NewReader(lines[i%2])
			if cmd.Run() == nil {
				joined[i%2].Add(1)
			} else if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left of a sensor that did not join", dir)
			}
		})
	}
	all.Wait()
	for i := range joined {
		if n := joined[i].Load(); n != 1 {
			t.Errorf("%d sensors joined by line %d", n, i)
		}
	}
	r.stop()
}
