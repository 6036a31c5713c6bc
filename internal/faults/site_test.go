//go:build faults

package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// patience bounds every wait for something that should happen soon. The
// machine may be small, and busy with other tests.
const patience = 90 * time.Second

// Where things listen. Every test has a network namespace of its own.
const (
	relayAdmin  = "127.0.0.1:57080"
	agentAdmin  = "127.0.0.1:57081"
	livePort    = "127.0.0.1:57012"
	stream      = "branch-7/feed"
	intakePort  = "57011"
	thisMachine = "127.0.0.1"
)

// What a process is stopped with, and goes on with.
const (
	stopSignal     = syscall.SIGSTOP
	continueSignal = syscall.SIGCONT
)

// A site is a relay and an agent with one capture, and what is asked of them.
type site struct {
	t      *testing.T
	dir    string
	source *source
	relay  *relay
	agent  *agent
	branch *poiptest.Branch // where the agent is; nil: beside the relay
}

// A plan is what a test wants of a site.
type plan struct {
	intake    string // keys of [relay.intake]
	stream    string // keys of [relay.stream], beside history
	history   string // its size; empty: plenty
	listeners string // more listeners
	agent     string // keys of [agent]
	scheme    string // empty: tls
	branch    *poiptest.Branch
	address   string   // at which the relay is dialed; empty: loopback, or the branch's link
	listen    string   // where it takes agents in; empty: the same
	relayAs   []string // a program under which the relay runs, with its arguments
	agentAs   []string // the same for the agent
}

// newSite makes the two with certificates of their own, and starts nothing.
func newSite(t *testing.T, p plan) *site {
	t.Helper()
	s := &site{t: t, dir: shortDir(t), branch: p.branch}
	s.must("poip-relay", "init", "--data", s.path("relay"), "--name", "localhost")
	s.must("poip-relay", "issue", "branch-7", "--data", s.path("relay"), "--out", s.path("branch-7"))
	s.source = newSource(t, s.dir)
	if p.address == "" {
		p.address = thisMachine
		if p.branch != nil {
			p.address = poiptest.RelaySide
		}
	}
	if p.listen == "" {
		p.listen = p.address
	}
	if p.scheme == "" {
		p.scheme = "tls"
	}
	s.relay = &relay{site: s, under: p.relayAs, config: s.write("relay.toml", s.relayTOML(p))}
	url := fmt.Sprintf("%s://%s:%s", p.scheme, p.address, intakePort)
	s.agent = s.newAgent("branch-7", url, agentAdmin, p.agent, s.source.captureTOML())
	s.agent.under = p.agentAs
	return s
}

// shortDir is a temporary folder whose path leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "poip-fault-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start starts both, and waits until the agent's stream is at the relay.
func (s *site) start() {
	s.t.Helper()
	s.relay.start()
	s.agent.start()
	s.source.tapped(0)
	eventually(s.t, "the stream is live", s.relay.live)
}

func (s *site) relayTOML(p plan) string {
	history := p.history
	if history == "" {
		history = "4GiB"
	}
	return fmt.Sprintf(`[relay]
name = "localhost"
data = %q
[relay.intake]
tcp = "%s:57011"
quic = "%[2]s:57011"
%s
[relay.admin]
listen = %q
[relay.stream]
history = %q
%s
[[relay.listener]]
name = "live"
listen = %q
streams = ["*/*"]
allow = ["127.0.0.0/8"]
format = "pcap-ns"
snaplen = 262144
start = "oldest"
%s`, s.path("relay"), p.listen, p.intake, relayAdmin, history, p.stream, livePort, p.listeners)
}

func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *site) write(name, text string) string {
	s.t.Helper()
	path := s.path(name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *site) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// must runs one of our commands to its end, which has to be a good one.
func (s *site) must(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(program(name), args...).Output()
	if err != nil {
		said := ""
		if exit, ok := err.(*exec.ExitError); ok {
			said = string(exit.Stderr)
		}
		s.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, said)
	}
	return string(out)
}

// under is the command line of one of our programs, beneath another program
// where there is one.
func under(wrap []string, name string, args ...string) *exec.Cmd {
	words := append(append([]string{}, wrap...), program(name))
	words = append(words, args...)
	return exec.Command(words[0], words[1:]...)
}

// A relay is poip-relay run, again and again where a test wants it.
type relay struct {
	*poiptest.Process
	site   *site
	config string
	under  []string
}

func (r *relay) start() {
	r.site.t.Helper()
	r.Process = poiptest.StartProcess(r.site.t, "poip-relay", under(r.under, "poip-relay", "run", "--config", r.config, "--log-format", "json"))
	r.WaitMessage("relay is running")
}

// metrics is what the relay counts; empty when it does not answer.
func (r *relay) metrics() poiptest.Metrics {
	page, _ := poiptest.Page(relayAdmin, "/metrics")
	return poiptest.Metrics(page)
}

// pause stops the process for a while, as a debugger or a hypervisor might.
func (r *relay) pause(d time.Duration) {
	r.site.t.Helper()
	r.Signal(stopSignal)
	time.Sleep(d)
	r.Signal(continueSignal)
}

func (r *relay) live() bool { return r.metrics().Sum("poip_relay_stream_live") == 1 }

// sessions is how many TCP connections the kernel has established for the
// relay's intake; proc_net_tcp(5).
func (r *relay) sessions() (n int) {
	r.site.t.Helper()
	port, err := strconv.Atoi(intakePort)
	if err != nil {
		r.site.t.Fatal(err)
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", r.Cmd.Process.Pid))
	if err != nil {
		r.site.t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		const local, state, established = 1, 3, "01"
		f := strings.Fields(line)
		if f[state] == established && strings.HasSuffix(f[local], fmt.Sprintf(":%04X", port)) {
			n++
		}
	}
	return n
}

func (r *relay) received() float64 { return r.metrics().Sum("poip_relay_received_packets_total") }

// memory is a value of the process' status that the kernel gives in kB, in
// bytes: VmRSS, VmHWM.
func (r *relay) memory(name string) int {
	r.site.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Cmd.Process.Pid))
	if err != nil {
		r.site.t.Fatal(err)
	}
	var kib int
	_, after, _ := strings.Cut(string(status), name+":")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		r.site.t.Fatal(err)
	}
	return kib << 10
}

// An agent is poip-agent run.
type agent struct {
	*poiptest.Process
	site   *site
	sensor string
	config string
	admin  string
	under  []string
	source *source // of its capture, if that is a tap
}

func (s *site) newAgent(sensor, url, admin, keys string, captures ...string) *agent {
	text := fmt.Sprintf("[agent]\nrelay = %q\nrelay_name = \"localhost\"\ndata = %q\n%s\n[agent.admin]\nlisten = %q\n", url, s.path(sensor), keys, admin)
	for _, c := range captures {
		text += "[[agent.capture]]\n" + c
	}
	return &agent{site: s, sensor: sensor, admin: admin, source: s.source, config: s.write(filepath.Base(sensor)+".toml", text)}
}

func (a *agent) start() {
	a.site.t.Helper()
	a.inBranch(func() {
		a.Process = poiptest.StartProcess(a.site.t, "poip-agent", under(a.under, "poip-agent", "run", "--config", a.config, "--log-format", "json"))
	})
}

// Kill is kill -9.
func (a *agent) Kill() {
	a.site.t.Helper()
	a.Process.Kill()
	a.source.detach()
}

// inBranch runs f where the agent is.
func (a *agent) inBranch(f func()) {
	if a.site.branch != nil {
		a.site.branch.Do(f)
		return
	}
	f()
}

// metrics is what the agent counts; empty when it does not answer.
func (a *agent) metrics() (m poiptest.Metrics) {
	if a.site.branch == nil {
		page, _ := poiptest.Page(a.admin, "/metrics")
		return poiptest.Metrics(page)
	}
	a.inBranch(func() {
		out, _ := exec.Command(self, "fetch", a.admin, "/metrics").Output()
		m = poiptest.Metrics(out)
	})
	return m
}

// An agentStatus is what `poip-agent status --json` says, as far as we ask.
type agentStatus struct {
	Streams []struct {
		Acknowledged uint64 `json:"acknowledged_packets"`
	}
}

func (s agentStatus) acknowledged() (n uint64) {
	for _, stream := range s.Streams {
		n += stream.Acknowledged
	}
	return n
}

func (a *agent) status() (status agentStatus) {
	a.site.t.Helper()
	a.inBranch(func() {
		out, err := exec.Command(program("poip-agent"), "status", "--config", a.config, "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, &status)
		}
		if err != nil {
			a.site.t.Errorf("poip-agent status --json: %v\n%s", err, out)
		}
	})
	return status
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}
