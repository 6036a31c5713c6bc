package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What is secret is nowhere to be seen while both programs run and are talked
// to, nor when they crash: not in logs, pages, metrics, arguments, environments,
// the audit log, a core file, nor in any file but its own. It fails when
// broker.desk.login names users that do not exist to the audit log (the password
// may be typed there), or when a program takes a secret from its arguments.
// (internal/e2e/joining_test.go does the same for tokens.)
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	w := newWorld(t, "branch-7")
	const right, wrong = "planted-right-0123456789", "planted-wrong-0123456789"
	hash := w.passwd("alice", right)
	if err := os.WriteFile(w.path("relay", "passwords"), []byte(hash), 0o600); err != nil {
		t.Fatal(err)
	}
	toml := strings.Replace(w.relayTOML("", listenerTOML{"plain", "", plainOldest}), "[relay.admin]\n", "[relay.admin]\npasswords = \"passwords\"\n", 1)
	r := w.startRelay(toml)
	agent := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake("tls"), "name = \"feed\"\nstdin = true\n"))
	agent.Stdin.Write(append(micro(nil), micro(numbered(1))[24:]...))
	agent.WaitMessage("connected to relay")
	var pages []byte
	for _, path := range []string{"/", "/metrics", "/healthz", "/api/v1/streams", "/api/v1/listeners", "/debug/pprof/", "/debug/vars"} {
		for _, password := range []string{right, wrong, ""} {
			status, page := r.fetch("alice", password, path)
			if password != right && status == http.StatusOK && path != "/healthz" {
				t.Errorf("%s is shown to who has the password %q", path, password)
			}
			if strings.HasPrefix(path, "/debug") && status == http.StatusOK {
				t.Errorf("%s exists", path)
			}
			pages = append(pages, page...)
		}
	}
	r.fetch(wrong, wrong, "/metrics") // typed into the wrong field
	seen := map[string][]byte{"pages": pages}
	for _, p := range []*process{r.process, agent} {
		for _, what := range []string{"cmdline", "environ"} {
			path := fmt.Sprintf("/proc/%d/%s", p.Cmd.Process.Pid, what)
			text, err := os.ReadFile(path)
			if err != nil || len(text) == 0 {
				t.Fatalf("%s: %d bytes, %v", path, len(text), err)
			}
			seen[path] = text
		}
		crash(t, p)
	}
	secrets := map[string][]string{right: nil, wrong: nil} // with the files where they may be
	for _, key := range []string{w.path("relay", "relay.key"), w.path("relay", "ca.key"), w.path("branch-7", "sensor.key")} {
		text, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		secret := strings.Split(string(text), "\n")[1] // of the PEM's base64
		secrets[secret] = []string{key}
	}
	seen["relay's log"], seen["agent's log"] = []byte(r.Log()), []byte(agent.Log())
	filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			seen[path], err = os.ReadFile(path)
		}
		return err
	})
	for secret, own := range secrets {
		for where, text := range seen {
			if bytes.Contains(text, []byte(secret)) && (len(own) == 0 || own[0] != where) {
				t.Errorf("%s holds a secret: %.12s…", where, secret)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d places were looked at", len(seen))
	}
}

// crash has a program end as by a fault of its own, where a core file may be as
// large as it likes. The program says where its goroutines were and leaves none.
func crash(t *testing.T, p *process) {
	t.Helper()
	limit := new(unix.Rlimit)
	if err := unix.Prlimit(p.Cmd.Process.Pid, unix.RLIMIT_CORE, nil, limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := unix.Prlimit(p.Cmd.Process.Pid, unix.RLIMIT_CORE, limit, nil); err != nil {
		t.Fatal(err)
	}
	p.Signal(unix.SIGABRT)
	p.Wait()
	if p.Cmd.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		t.Errorf("%s leaves a core file", p.Name)
	}
	if !strings.Contains(p.Log(), "goroutine ") {
		t.Errorf("%s has not crashed: this proves nothing", p.Name)
	}
}

// passwd makes a line of a password file.
func (w *world) passwd(name, password string) string {
	w.t.Helper()
	cmd := exec.Command(program("poip-relay"), "passwd", name, "--role", "viewer")
	cmd.Stdin = strings.NewReader(password + "\n")
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("passwd: %v", err)
	}
	return string(out)
}

// fetch is get with a log-in, whatever the answer.
func (r *relay) fetch(user, password, path string) (status int, page []byte) {
	r.t.Helper()
	request, err := http.NewRequest("GET", "http://"+r.address("admin")+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if password != "" {
		request.SetBasicAuth(user, password)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	page, err = io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, page
}

// Everything that both programs write is for their owner alone; and they do not
// start where somebody has made it wider. It fails when certs.CheckFolder is not
// called, by checkSecrets neither, or readSecret does not look at modes.
func TestFilesAreForTheirOwner(t *testing.T) {
	w := newWorld(t, "branch-7")
	w.must("poip-relay", "token", "branch-8", "--data", w.path("relay"), "--relay", "tls://localhost")
	r := w.startRelay(w.relayTOML("[relay.stream]\nhistory = \"4MiB\"\n", listenerTOML{"plain", "", plainOldest}))
	toml := w.agentTOML("branch-7", r.intake("tls"), "name = \"feed\"\nstdin = true\n")
	f := w.startFeed(r, "branch-7", "tls")
	f.packet()
	eventually(t, "the packet has arrived", func() bool { return r.metric("poip_relay_received_packets_total") == 1 })
	f.stop() // first: it waits until the history has the packet
	r.stop()
	looked := 0
	for _, folder := range []string{"relay", "branch-7"} {
		filepath.WalkDir(w.path(folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			info, err := d.Info()
			if err != nil {
				t.Fatal(err)
			}
			public := strings.HasSuffix(path, ".pem") // certificates, in a folder that nobody else enters
			if mode := info.Mode().Perm(); mode&0o077 != 0 && !public {
				t.Errorf("%s has mode %04o", path, mode)
			}
			looked++
			return nil
		})
	}
	if looked < 12 {
		t.Errorf("only %d files were looked at", looked)
	}
	relayConfig, agentConfig := w.path("relay.toml"), w.write("agent.toml", toml)
	for _, c := range []struct {
		path string
		mode os.FileMode
		run  []string
	}{
		{w.path("relay"), 0o755, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "relay.key"), 0o640, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "ca.key"), 0o644, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "ca.key"), 0o640, []string{"poip-relay", "check", "--config", relayConfig}},
		{w.path("relay", "tokens"), 0o755, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "sensors"), 0o755, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "audit"), 0o755, []string{"poip-relay", "run", "--config", relayConfig}},
		{w.path("relay", "ca.key"), 0o604, []string{"poip-relay", "issue", "branch-9", "--data", w.path("relay"), "--out", w.path("branch-9")}},
		{w.path("branch-7"), 0o710, []string{"poip-agent", "run", "--config", agentConfig}},
		{w.path("branch-7", "sensor.key"), 0o644, []string{"poip-agent", "run", "--config", agentConfig}},
	} {
		before, err := os.Stat(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(c.path, c.mode); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience) // of one that does start
		out, err := exec.CommandContext(ctx, program(c.run[0]), c.run[1:]...).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), "chmod") {
			t.Errorf("%s with mode %04o: %v\n%s", c.path, c.mode, err, out)
		}
		if err := os.Chmod(c.path, before.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}
