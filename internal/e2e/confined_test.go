package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// The agent captures although no thread of it has a capability any more, nor all
// system calls, and goes on when the interface was deleted and another one came in
// its place. It fails when cmd/poip-agent does not set Agent.Prepared, when
// Agent.prepare prepares nothing, and when confine.Apply does not call filter.
func TestAgentCapturesWithoutCapabilities(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "va", "vb", 1500)
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		capture := func(name string) string {
			return fmt.Sprintf("name = %q\ninterface = %q\nfilter = \"udp port 9 or vlan\"\n", name, name)
		}
		agent := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake("tls"), capture("vb"), capture("later")))
		received := func(stream string) float64 {
			return r.metric("poip_relay_received_packets_total", fmt.Sprintf("stream=%q", stream))
		}
		for round, name := range []string{"vb", "vb", "later"} {
			if round == 1 {
				if err := poiptest.IP("link del va"); err != nil {
					t.Fatal(err)
				}
				poiptest.Veth(t, "va", "vb", 1500)
			}
			far := "va"
			if name == "later" { // it comes when the agent may open no socket for it
				far = "vl"
				poiptest.Veth(t, far, name, 1500)
			}
			before := received(name)
			address := fmt.Sprintf("198.51.%d.1/24", round)
			if err := poiptest.IP("addr add " + address + " broadcast + dev " + far); err != nil {
				t.Fatal(err)
			}
			eventually(t, name+" is captured", func() bool {
				broadcast(t, fmt.Sprintf("198.51.%d.255:9", round))
				return received(name) > before
			})
			for _, status := range threads(t, agent) {
				unprivileged(t, status)
			}
		}
		confined := agent.WaitMessage("confined")["to"].(map[string]any)
		if confined["capabilities"] != "none" || !strings.HasPrefix(fmt.Sprint(confined["seccomp"]), "refuses ") {
			t.Errorf("the log says %v", confined)
		}
		agent.stop()
	})
}

// Others' programs capture although they have the agent's filter. It fails when
// dumpcap's sockets or capabilities are refused to it.
func TestCommandsCaptureConfined(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "va", "vb", 1500)
		if err := poiptest.IP("addr add 198.51.9.1/24 broadcast + dev va"); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		command := "name = \"cmd\"\ncommand = [\"dumpcap\", \"-q\", \"-P\", \"-i\", \"vb\", \"-w\", \"-\"]\n"
		agent := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake("quic"), command))
		eventually(t, "dumpcap captures", func() bool {
			broadcast(t, "198.51.9.255:9")
			return r.metric("poip_relay_received_packets_total") > 0
		})
		for _, status := range threads(t, agent) {
			if status["Seccomp"] != "2" || strings.Trim(status["CapEff"], "0") != "" {
				t.Errorf("%s: Seccomp %s, CapEff %s", status["file"], status["Seccomp"], status["CapEff"])
			}
		}
		agent.stop()
	})
}

// tcpdump becomes another user, whom an agent without capabilities cannot stop.
// The agent ends all the same, and says so. It fails without abandon in
// agent/capture/command.go.
func TestAnAgentEndsBeforeItsCommand(t *testing.T) {
	if !poiptest.RealRoot() {
		t.Log("tcpdump becomes nobody else here")
		return
	}
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "va", "vb", 1500)
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		command := "name = \"cmd\"\ncommand = [\"tcpdump\", \"-U\", \"-i\", \"vb\", \"-w\", \"-\"]\n"
		agent := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake("tls"), command))
		agent.WaitMessage("connected to relay")
		agent.stop()
		agent.WaitMessage("command goes on for a while")
	})
}

func broadcast(t *testing.T, to string) {
	t.Helper()
	conn, err := net.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	control, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	control.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1) })
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

// The relay needs no capability from the moment at which it listens, no system
// call that its filter refuses, and the files of its own folder and its
// configuration's. It is told so in the log.
func TestRelayIsConfined(t *testing.T) {
	poiptest.RunInNetns(t, func() { // where it starts with every capability
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		for _, status := range threads(t, r.process) {
			unprivileged(t, status)
		}
		confined := r.WaitMessage("confined")["to"].(map[string]any)
		paths, _ := r.WaitMessage("confined to paths")["paths"].(string)
		if confined["capabilities"] != "none" || !strings.HasPrefix(fmt.Sprint(confined["seccomp"]), "refuses ") || paths != "" && !strings.Contains(paths, "write:"+w.path("relay")) {
			t.Errorf("the log says %v", confined)
		}
		if strings.Contains(paths, "write:/ ") || strings.Contains(paths, ":/etc ") {
			t.Errorf("the relay may use too much: %s", paths)
		}
		// It reads a configuration that an editor has put in the old one's place.
		text := w.relayTOML("", listenerTOML{"plain", "", plainOldest}, listenerTOML{"another", "", plainOldest})
		if err := os.Rename(w.write("next.toml", text), w.path("relay.toml")); err != nil {
			t.Fatal(err)
		}
		r.Signal(syscall.SIGHUP)
		r.WaitMessage("configuration reloaded")
		r.stop()
	})
}

// What is required and cannot be had is an error, as is a user whom we cannot become.
func TestUnknownConfinementRefusesToStart(t *testing.T) {
	w := newWorld(t, "branch-7")
	for _, wrong := range []string{`confine = "perhaps"`, `user = "nobody-of-that-name"`} {
		toml := w.agentTOML("branch-7", "tls://127.0.0.1:1", "name = \"in\"\nstdin = true\n")
		toml = strings.Replace(toml, "[agent]\n", "[agent]\n"+wrong+"\n", 1)
		a := w.startAgent("branch-7", toml)
		if code := a.Wait(); code == 0 {
			t.Errorf("%s: the agent ended well", wrong)
		}
		if key, _, _ := strings.Cut(wrong, " "); !strings.Contains(a.Log(), key) {
			t.Errorf("%s: it said %s", wrong, a.Log())
		}
	}
}

// threads reads /proc/PID/task/*/status.
func threads(t *testing.T, p *process) (all []map[string]string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.Cmd.Process.Pid))
	if err != nil || len(files) < 2 {
		t.Fatalf("threads of %s: %q, %v", p.Name, files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		status := map[string]string{"file": file}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		all = append(all, status)
	}
	return all
}

func unprivileged(t *testing.T, status map[string]string) {
	t.Helper()
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if strings.Trim(status[set], "0") != "" {
			t.Errorf("%s: %s is %s", status["file"], set, status[set])
		}
	}
	if status["NoNewPrivs"] != "1" || status["Seccomp"] != "2" {
		t.Errorf("%s: NoNewPrivs is %s, Seccomp %s", status["file"], status["NoNewPrivs"], status["Seccomp"])
	}
}

// systemd hears from the real programs that they are ready, reload, live and
// end. Take the Notifier out of either run.go and it fails.
func TestSystemdIsTold(t *testing.T) {
	dir := t.TempDir()
	told := func(name string) <-chan string {
		path := filepath.Join(dir, name)
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		t.Setenv("NOTIFY_SOCKET", path)
		messages := make(chan string, 1000)
		go func() {
			b := make([]byte, 4096)
			for {
				n, err := conn.Read(b)
				if err != nil {
					return
				}
				messages <- string(b[:n])
			}
		}()
		return messages
	}
	hear := func(messages <-chan string, want string) {
		t.Helper()
		for deadline := time.After(patience); ; {
			select {
			case m := <-messages:
				if strings.HasPrefix(m, want) {
					return
				}
			case <-deadline:
				t.Fatalf("systemd was not told %s", want)
			}
		}
	}
	t.Setenv("WATCHDOG_USEC", "200000")
	w := newWorld(t, "branch-7")
	ofRelay := told("relay")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	hear(ofRelay, "READY=1")
	hear(ofRelay, "WATCHDOG=1")
	r.Signal(syscall.SIGHUP)
	hear(ofRelay, "RELOADING=1\nMONOTONIC_USEC=")
	hear(ofRelay, "READY=1")
	ofAgent := told("agent")
	a := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake("quic"), "name = \"in\"\nstdin = true\n"))
	hear(ofAgent, "READY=1")
	hear(ofAgent, "WATCHDOG=1")
	a.stop()
	hear(ofAgent, "STOPPING=1")
	r.stop()
	hear(ofRelay, "STOPPING=1")
}

// Started as root, the agent becomes the user whom its configuration names, with
// the files of that user and no other's. It fails when confine.Apply does not
// call become.
func TestAgentBecomesItsUser(t *testing.T) {
	if !poiptest.RealRoot() {
		t.Log("nobody but root may become somebody else: proven for root")
		return
	}
	dir, err := os.MkdirTemp("/var/tmp", "poip-e2e-") // which everybody can reach
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("poip-relay", "init", "--data", w.path("relay"), "--name", "localhost")
	w.must("poip-relay", "issue", "branch-7", "--data", w.path("relay"), "--out", w.path("branch-7"))
	if out, code := shell(t, patience, "chown -R nobody %s", w.path("branch-7")); code != 0 {
		t.Fatal(out)
	}
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	toml := w.agentTOML("branch-7", r.intake("tls"), "name = \"feed\"\nstdin = true\n")
	a := w.startAgent("branch-7", strings.Replace(toml, "[agent]\n", "[agent]\nuser = \"nobody\"\n", 1))
	a.Stdin.Write(micro(numbered(1)))
	eventually(t, "a packet has arrived", func() bool { return r.metric("poip_relay_received_packets_total") == 1 })
	for _, status := range threads(t, a) {
		unprivileged(t, status)
		if strings.HasPrefix(status["Uid"], "0") || status["Groups"] != "" {
			t.Errorf("%s: users %s, groups %s", status["file"], status["Uid"], status["Groups"])
		}
	}
	a.stop()
}
