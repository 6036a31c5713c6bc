// Package e2e tests the two programs as their users meet them: real binaries,
// real configuration files, real tools at the ends.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// patience bounds every wait for something that should happen soon.
const patience = 20 * time.Second

// A world is a relay and sensors with one CA, in a temporary directory.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T, sensors ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.must("poip-relay", "init", "--data", w.path("relay"), "--name", "localhost")
	for _, s := range sensors {
		w.must("poip-relay", "issue", s, "--data", w.path("relay"), "--out", w.path(s))
	}
	return w
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// must runs one of our commands to its end, which has to be a good one.
func (w *world) must(name string, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(program(name), args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := w.path(name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// A listener of these tests, in TOML, without name and address.
const (
	plainLive   = `streams = ["*/*"]` + "\n" + `allow = ["127.0.0.0/8", "::1/128"]` + "\n"
	plainOldest = plainLive + `start = "oldest"` + "\n"
	wholeFile   = plainOldest + `end = "close"` + "\n" + `overflow = "block"` + "\n"
)

// A listenerTOML is one [[relay.listener]].
type listenerTOML struct{ name, listen, rest string }

func (l listenerTOML) String() string {
	listen := l.listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	return fmt.Sprintf("[[relay.listener]]\nname = %q\nlisten = %q\n%s", l.name, listen, l.rest)
}

// relayTOML is a relay's configuration on ports that the kernel chooses.
func (w *world) relayTOML(extra string, listeners ...listenerTOML) string {
	text := fmt.Sprintf(`[relay]
name = "localhost"
data = %q
[relay.intake]
tcp = "127.0.0.1:0"
quic = "127.0.0.1:0"
[relay.admin]
listen = "127.0.0.1:0"
`, w.path("relay")) + extra
	for _, l := range listeners {
		text += l.String()
	}
	return text
}

// A relay is a running poip-relay.
type relay struct {
	*process
	world *world

	running logLine // that it said; nil: it is to be found in the log
}

func (w *world) startRelay(toml string) *relay {
	w.t.Helper()
	config := w.write("relay.toml", toml)
	r := &relay{process: w.start("poip-relay", "run", "--config", config, "--log-format", "json", "--log-level", "debug"), world: w}
	r.WaitMessage("relay is running")
	return r
}

// address is where the relay listens: "tls" and "quic" for agents, "admin", or
// the name of a listener with a single port.
func (r *relay) address(name string) string {
	r.t.Helper()
	running := r.running
	if running == nil {
		running = r.WaitMessage("relay is running")
	}
	if address, ok := running[name].(string); ok {
		return address
	}
	return r.door(name, "").Address
}

// portOf waits until the stream has its port of an each = true listener.
func (r *relay) portOf(listener, stream string) string {
	r.t.Helper()
	eventually(r.t, stream+" has a port", func() bool { return r.door(listener, stream).Address != "" })
	return r.door(listener, stream).Address
}

// A door is one port of a listener, as the API describes it.
type door struct {
	Stream   string
	Address  string
	Commands []string
	Analysts []analyst `json:"connections"`
}

// An analyst is a connection, as the API describes it.
type analyst struct {
	Remote                          string
	State                           string
	Offered, Sent, Skipped, Pending uint64
}

func (a *analyst) UnmarshalJSON(b []byte) error {
	var raw struct {
		Remote  string
		State   string
		Offered uint64 `json:"offered_packets"`
		Sent    uint64 `json:"sent_packets"`
		Skipped uint64 `json:"skipped_packets"`
		Pending uint64 `json:"pending_packets"`
	}
	err := json.Unmarshal(b, &raw)
	*a = analyst(raw)
	return err
}

// door returns the port of a listener that serves the stream.
func (r *relay) door(listener, stream string) door {
	r.t.Helper()
	var answer struct {
		Listeners []struct {
			Name  string
			Doors []door
		}
	}
	if err := json.Unmarshal([]byte(r.get("/api/v1/listeners")), &answer); err != nil {
		r.t.Fatal(err)
	}
	for _, l := range answer.Listeners {
		for _, d := range l.Doors {
			if l.Name == listener && d.Stream == stream {
				return d
			}
		}
	}
	return door{}
}

// get fetches a page of the relay's administration.
func (r *relay) get(path string) string {
	r.t.Helper()
	response, err := http.Get("http://" + r.address("admin") + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		r.t.Fatalf("GET %s: %s %v\n%s", path, response.Status, err, body)
	}
	return string(body)
}

// metric sums a metric over all label sets that contain every one of labels.
func (r *relay) metric(name string, labels ...string) (sum float64) {
	r.t.Helper()
lines:
	for _, line := range strings.Split(r.get("/metrics"), "\n") {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
			r.t.Fatalf("metric line %q: %v", line, err)
		}
		sum += value
	}
	return sum
}

// agentTOML is an agent's configuration.
func (w *world) agentTOML(sensor, relayURL string, captures ...string) string {
	text := fmt.Sprintf("[agent]\nrelay = %q\nrelay_name = \"localhost\"\ndata = %q\n", relayURL, w.path(sensor))
	for _, c := range captures {
		text += "[[agent.capture]]\n" + c
	}
	return text
}

func (w *world) startAgent(sensor, toml string) *process {
	w.t.Helper()
	config := w.write(sensor+".toml", toml)
	return w.start("poip-agent", "run", "--config", config, "--log-format", "json", "--log-level", "debug")
}

type logLine = poiptest.LogLine

// A process is one of our programs, running.
type process struct {
	*poiptest.Process
	t *testing.T
}

func (w *world) start(name string, args ...string) *process {
	w.t.Helper()
	return w.startAs(name, program(name), args...)
}

// startAs starts one of our programs by another one, which execs it.
func (w *world) startAs(name, path string, args ...string) *process {
	w.t.Helper()
	cmd := exec.Command(path, args...)
	stdout, err := os.Create(w.path("stdout"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer stdout.Close()
	cmd.Stdout = stdout
	p := &process{poiptest.StartProcess(w.t, name, cmd), w.t}
	p.Patience = patience
	return p
}

// stop is SIGTERM, and the exit that has to follow: within 5 s, with code 0.
func (p *process) stop() {
	p.t.Helper()
	p.StopWithin(5500 * time.Millisecond)
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// program is the path of one of our commands, built by TestMain.
func program(name string) string { return filepath.Join(binDir, name) }

var binDir string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "poip-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/poip-relay", "./cmd/poip-agent")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the commands: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// shell runs a pipeline as a user would type it and returns its stdout.
func shell(t *testing.T, most time.Duration, format string, args ...any) (stdout string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	line := fmt.Sprintf(format, args...)
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -o pipefail; "+line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if ctx.Err() != nil {
		t.Fatalf("%s: not done after %v\nstdout: %s\nstderr: %s", line, most, tail(string(out), 2000), errors.String())
	}
	if err != nil {
		t.Logf("%s: %v: %s", line, err, errors.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// readAll connects to a plain listener as nc does and reads to the end.
func readAll(t *testing.T, address string) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(patience))
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("read from %s: %v after %d bytes", address, err, len(all))
	}
	return all
}

func splitAddress(t *testing.T, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
