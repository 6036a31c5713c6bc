package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const units = "../../dist/systemd/"

// Exposure is systemd's own measure of what a unit leaves open, from 0 to 10.
// It fails when, of the agent's unit, any two of the lines below its comment are
// taken out.
func TestUnitsAreHardened(t *testing.T) {
	for unit, most := range map[string]string{"poip-agent.service": "20", "poip-relay.service": "15"} { // in tenths
		out, code := shell(t, patience, "systemd-analyze security --no-pager --offline=true --threshold=%s %s 2>&1", most, units+unit)
		if code != 0 || strings.Contains(out, "Unknown") {
			t.Errorf("%s is exposed more than %s tenths:\n%s", unit, most, tail(out, 3000))
		}
	}
}

// A unit is what systemd takes it for: no unknown key, no missing program.
func TestUnitsAreUnderstood(t *testing.T) {
	for _, name := range []string{"poip-agent", "poip-relay"} {
		text, err := os.ReadFile(units + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		changed := strings.ReplaceAll(string(text), "/usr/bin/"+name, program(name))
		if err := os.WriteFile(filepath.Join(dir, name+".service"), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		out, code := shell(t, patience, "systemd-analyze verify --man=no %s 2>&1", filepath.Join(dir, name+".service"))
		if code != 0 || strings.Contains(out, name) {
			t.Errorf("systemd-analyze verify: %d\n%s", code, out)
		}
		for _, line := range []string{"Type=notify", "WatchdogSec="} {
			if !strings.Contains(string(text), "\n"+line) {
				t.Errorf("%s.service lacks %s", name, line)
			}
		}
	}
}

// The units' SystemCallFilter has to let through what the programs do, confining
// themselves and compiling filters included: whatever they call here, under
// strace, it allows. It fails when the line with landlock is taken out.
func TestUnitsAllowWhatProgramsCall(t *testing.T) {
	w := newWorld(t, "branch-7")
	config := w.write("relay.toml", w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	r := &relay{process: w.startTraced("poip-relay", "run", "--config", config, "--log-format", "json"), world: w}
	r.WaitMessage("relay is running")
	trace := w.write("trace.pcap", string(micro(numbered(1))))
	toml := w.agentTOML("branch-7", r.intake("tls"), fmt.Sprintf("name = \"trace\"\nfile = %q\nfilter = \"udp or vlan\"\n", trace))
	config = w.write("branch-7.toml", toml)
	a := w.startTraced("poip-agent", "run", "--config", config, "--log-format", "json")
	if code := a.WaitFor(2 * patience); code != 0 {
		t.Fatalf("the agent ended with code %d", code)
	}
	if n := r.metric("poip_relay_received_packets_total"); n != 1 {
		t.Errorf("%v packets arrived", n)
	}
	r.Signal(syscall.SIGHUP)
	r.WaitMessage("configuration reloaded")
	r.stop()
	for _, p := range []*process{a, r.process} {
		// strace fills the numbers of processes up to five columns.
		exited := regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited`, p.Cmd.Process.Pid))
		eventually(t, "strace has seen the end", func() bool {
			text, err := os.ReadFile(w.path(p.Name + ".strace"))
			return err == nil && exited.Match(text)
		})
	}
	for _, name := range []string{"poip-agent", "poip-relay"} {
		allowed := allowedCalls(t, units+name+".service")
		called := calls(t, w.path(name+".strace"))
		for call := range called {
			if !allowed[call] {
				t.Errorf("%s.service refuses %s, which the program calls", name, call)
			}
		}
		if !called["landlock_restrict_self"] && !called["prctl"] {
			t.Errorf("%s: the trace is no use: %d calls", name, len(called))
		}
	}
}

// startTraced is start under strace, which writes every system call of the
// program and its children to NAME.strace.
func (w *world) startTraced(name string, args ...string) *process {
	w.t.Helper()
	return w.startAs(name, "strace", append([]string{"-D", "-f", "-q", "-o", w.path(name + ".strace"), program(name)}, args...)...)
}

var callName = regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?([a-z0-9_]+)(?:\(| resumed)`)

func calls(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range callName.FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	return names
}

// allowedCalls reads a unit's SystemCallFilter as systemd.exec(5) says: lines in
// their order, ~ takes out again. systemd itself says what its groups hold.
func allowedCalls(t *testing.T, unit string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		list, out := strings.CutPrefix(list, "~")
		for _, name := range strings.Fields(list) {
			for _, call := range expand(t, name) {
				allowed[call] = !out
			}
		}
	}
	// Always allowed; see seccomp.c of systemd, and @default.
	for _, call := range expand(t, "@default") {
		allowed[call] = true
	}
	return allowed
}

func expand(t *testing.T, name string) (all []string) {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", name).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
	}
	for line := range strings.Lines(string(out)) {
		word := strings.TrimSpace(line)
		if word == name || word == "" || strings.HasPrefix(word, "#") {
			continue
		}
		all = append(all, expand(t, word)...)
	}
	return slices.Compact(all)
}
