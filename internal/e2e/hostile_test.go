package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// hostile are texts that do harm where they are printed, or used, as they are.
var hostile = []string{
	"\x1b[2J\x1b]0;owned\x07", "<script>alert(1)</script>", "line\nlevel=ERROR msg=forged", "\r\n\r\n", "a\x00b", "\u202egnp.exe",
	"../../etc/passwd", "/etc/passwd", "$(reboot)", "`reboot`", "%s%n%x", "\"},{\"state\":\"live", "poip_fake_metric 1\n", strings.Repeat("A", 200),
	"\xff\xfe\xfd", "C1\u009b31m", "-rf", "..", ".", "CON", "'; DROP TABLE streams; --",
}

// What sensors say of themselves, and the names that they ask for, reach logs,
// pages, metrics and terminals as text and no more. A name that is none is
// refused before it touches anything. It fails when the broker's greet does not
// make such words legible, or errors print peers' bytes by %s.
func TestHostileTextsDoNothing(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		t.Run(format, func(t *testing.T) {
			w := newWorld(t, "branch-7")
			config := w.write("relay.toml", w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
			var r *relay
			if format == "text" {
				r = w.startTextRelay(config)
			} else {
				r = &relay{process: w.start("poip-relay", "run", "--config", config, "--log-format", "json", "--log-level", "debug"), world: w}
			}
			for i, text := range hostile {
				said := wire.Hello{
					Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535,
					Stream: fmt.Sprintf("branch-7/s%d", i), Interface: text, Agent: text,
				}
				introduce(t, w, r, said)
				said.Stream = "branch-7/" + text
				introduce(t, w, r, said)
				said.Stream = text
				introduce(t, w, r, said)
			}
			pages := map[string]string{"sensors": w.must("poip-relay", "sensors", "--data", w.path("relay"))}
			for _, path := range []string{"/api/v1/streams", "/api/v1/listeners", "/metrics"} {
				pages[path] = r.get(path)
			}
			pages["log"] = r.Log()
			for where, text := range pages {
				for _, bad := range []string{"\x1b", "\x00", "\r", "\x07", "\u009b", "\u202e", "\nlevel=ERROR", "\npoip_fake_metric", "\xff"} {
					if strings.Contains(text, bad) && !(where == "sensors" && bad == "\r") {
						t.Errorf("%s holds %q", where, bad)
					}
				}
				if strings.HasPrefix(where, "/") && strings.Contains(text, "<script") {
					t.Errorf("%s holds <script", where)
				}
			}
			filepath.Walk(w.path("relay"), func(path string, info os.FileInfo, err error) error {
				if name := filepath.Base(path); strings.ContainsAny(name, "<>$`%;\x1b ") {
					t.Errorf("a file %q was made", path)
				}
				return nil
			})
			r.stop()
		})
	}
}

// startTextRelay is a relay whose log has the form for people.
func (w *world) startTextRelay(config string) *relay {
	w.t.Helper()
	p := w.start("poip-relay", "run", "--config", config, "--log-format", "text", "--log-level", "debug")
	eventually(w.t, "the relay runs", func() bool { return strings.Contains(p.Log(), "relay is running") })
	line := logLine{}
	for _, field := range strings.Fields(p.Log()) {
		if key, value, ok := strings.Cut(field, "="); ok {
			if _, twice := line[key]; !twice {
				line[key] = value
			}
		}
	}
	return &relay{p, w, line}
}

// introduce says hello as branch-7, and waits for an answer, whichever.
func introduce(t *testing.T, w *world, r *relay, said wire.Hello) {
	t.Helper()
	dialer := w.dialer("branch-7")
	defer dialer.Close()
	endpoint, err := transport.ParseEndpoint(r.intake("tls"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Open(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Abort()
	conn.Write(wire.AppendHello(nil, said))
	conn.Flush()
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); os.IsTimeout(err) {
		t.Errorf("no answer to %q", said.Stream)
	}
}

// A link that somebody has planted where a folder belongs leads nowhere: nothing
// is written, read or removed behind it, by programs that are not confined. It
// fails when the journal does not keep to its os.Root.
func TestPlantedLinksLeadNowhere(t *testing.T) {
	for _, c := range []struct{ link, confine string }{
		{"history", "off"}, {"history/branch-7", "off"}, {"history/branch-7/feed", "off"}, {"history", "auto"},
		{"spool", "off"}, {"spool/feed", "off"}, {"spool", "auto"},
	} {
		t.Run(c.link+"/"+c.confine, func(t *testing.T) {
			w := newWorld(t, "branch-7")
			outside := t.TempDir()
			treasure := filepath.Join(outside, "treasure")
			if err := os.WriteFile(treasure, []byte("treasure"), 0o600); err != nil {
				t.Fatal(err)
			}
			owner := w.path("relay")
			if strings.HasPrefix(c.link, "spool") {
				owner = w.path("branch-7")
			}
			link := filepath.Join(owner, c.link)
			if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(outside, link); err != nil {
				t.Fatal(err)
			}
			w.work(c.confine, strings.HasPrefix(c.link, "history"))
			entries, err := os.ReadDir(outside)
			if err != nil || len(entries) != 1 {
				t.Errorf("behind the link there is %v, %v", entries, err)
			}
			if text, err := os.ReadFile(treasure); string(text) != "treasure" {
				t.Errorf("the file behind the link is %q, %v", text, err)
			}
		})
	}
}

// work has both programs keep a packet on their disks, if they will: the agent
// has to where the relay is not there. They may refuse to start, or to go on.
func (w *world) work(confine string, withRelay bool) {
	w.t.Helper()
	relayURL := "tls://127.0.0.1:1"
	var r *relay
	if withRelay {
		toml := w.relayTOML("[relay.stream]\nhistory = \"4MiB\"\n", listenerTOML{"plain", "", plainOldest})
		config := w.write("relay.toml", strings.Replace(toml, "[relay]\n", fmt.Sprintf("[relay]\nconfine = %q\n", confine), 1))
		r = &relay{process: w.start("poip-relay", "run", "--config", config, "--log-format", "json"), world: w}
		select {
		case <-r.Done():
			return
		case <-r.said("relay is running"):
			relayURL = r.intake("tls")
		}
	}
	packet := w.write("packet.pcap", string(micro(numbered(1))))
	capture := fmt.Sprintf("name = \"feed\"\ncommand = [\"sh\", \"-c\", \"cat %s; sleep 60\"]\n", packet)
	toml := strings.Replace(w.agentTOML("branch-7", relayURL, capture), "[agent]\n", fmt.Sprintf("[agent]\nspool_sync = \"batch\"\nconfine = %q\n", confine), 1)
	a := w.startAgent("branch-7", toml)
	select {
	case <-a.Done():
	case <-time.After(2 * time.Second): // far more than it takes to write
		a.Signal(syscall.SIGTERM)
		a.Wait()
	}
	if r != nil {
		r.Signal(syscall.SIGTERM)
		r.Wait()
	}
}

// said is closed when the program's log has such a message.
func (p *process) said(message string) <-chan struct{} {
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if p.Count(func(l logLine) bool { return l["msg"] == message }) > 0 {
				return
			}
		}
	}()
	return heard
}
