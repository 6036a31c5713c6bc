package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"poip/internal/pcap"
)

// planted is in every packet of these tests.
const planted = "planted-in-packets-0123456789abcdef"

// A resting is packets that go from a spool to a history, with both programs
// killed in between.
type resting struct {
	*world
	records    []byte
	n          int
	spoolKey   string // lines of a configuration, or nothing
	historyKey string
}

// newResting writes the packets to a file, outside of the programs' folders.
func newResting(t *testing.T, keys bool) *resting {
	r := &resting{world: newWorld(t, "branch-7"), n: 400}
	for n := range r.n {
		frame := append(numbered(n)[pcap.RecordHeaderLen:], planted...)
		r.records = pcap.AppendRecord(r.records, 1_800_000_000, uint32(n), uint32(len(frame)), frame)
	}
	r.write("packets.pcap", string(append(pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, true), r.records...)))
	if keys {
		r.spoolKey = fmt.Sprintf("spool_key = %q\n", r.newKey("spool.key", "5"))
		r.historyKey = fmt.Sprintf("history_key = %q\n", r.newKey("history.key", "6"))
	}
	return r
}

// newKey writes a key that consists of one digit.
func (r *resting) newKey(name, digit string) string {
	return r.write(name, strings.Repeat(digit, 64)+"\n")
}

// agent starts the agent, whose capture is what a shell does.
func (r *resting) agent(relayURL, key, shell string) *process {
	capture := fmt.Sprintf("name = \"feed\"\ncommand = [\"sh\", \"-c\", %q]\n", shell)
	return r.startAgent("branch-7", strings.Replace(r.agentTOML("branch-7", relayURL, capture), "[agent]\n", "[agent]\nspool_sync = \"batch\"\n"+key, 1))
}

func (r *resting) relayWith(key string) string {
	return r.relayTOML("[relay.stream]\nhistory = \"16MiB\"\n"+key, listenerTOML{"plain", "", plainOldest})
}

// spool brings the packets into the spool, and kills the agent.
func (r *resting) spool() {
	r.t.Helper()
	a := r.agent("tls://127.0.0.1:1", r.spoolKey, "cat "+r.path("packets.pcap")+"; sleep 60")
	eventually(r.t, "all is in the spool", func() bool { return sizeBelow(r.t, r.path("branch-7", "spool")) > len(r.records) })
	time.Sleep(time.Second) // twenty times as long as a batch may take to its fsync
	a.Kill()
}

// deliver has another agent deliver what is in the spool, and kills it and the
// relay once that has it on its disk.
func (r *resting) deliver() {
	r.t.Helper()
	relay := r.startRelay(r.relayWith(r.historyKey))
	a := r.agent(relay.intake("tls"), r.spoolKey, "sleep 60")
	eventually(r.t, "the spool is delivered", func() bool { return relay.metric("poip_relay_received_packets_total") == float64(r.n) })
	eventually(r.t, "it is in the history", func() bool {
		return relay.metric("poip_relay_history_packets") == float64(r.n) && relay.metric("poip_relay_history_pending_bytes") == 0
	})
	relay.Kill()
	a.Kill()
}

func sizeBelow(t *testing.T, dir string) (n int) {
	for _, text := range filesBelow(t, dir) {
		n += len(text)
	}
	return n
}

// filesBelow is what all files below a folder hold; it may not be there yet.
func filesBelow(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all[path], err = os.ReadFile(path)
		}
		return err
	})
	return all
}

// command runs one of our commands to its end, whatever that is.
func command(name string, args ...string) (stdout []byte, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, program(name), args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.Bytes(), said.String(), err
}

// With keys, packets are in no file of either program, through two deaths of
// the agent and one of the relay, and none is lost; without keys they are. It fails
// when the agent or the broker does not hand the key to its journals.
func TestPacketsAtRestAreEncrypted(t *testing.T) {
	for _, keys := range []bool{false, true} {
		t.Run(fmt.Sprintf("keys %t", keys), func(t *testing.T) {
			r := newResting(t, keys)
			search := func(folder string) {
				hits := 0
				for _, text := range filesBelow(t, r.path(folder)) {
					hits += bytes.Count(text, []byte(planted))
				}
				if keys && hits > 0 || !keys && hits < r.n {
					t.Errorf("the files of %s hold packets %d times", folder, hits)
				}
			}
			r.spool()
			search("branch-7")
			r.deliver()
			search("relay")
			for _, folder := range []string{r.path("branch-7", "spool"), r.path("relay", "history")} {
				if out, err := exec.Command("find", folder, "-perm", "/077").CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("others may look at these, %v:\n%s", err, out)
				}
			}
			config := r.path("relay.toml")
			if out, said, err := command("poip-relay", "history", "export", "branch-7/feed", "--config", config); err != nil || !bytes.HasSuffix(out, r.records) || len(out) != pcap.FileHeaderLen+len(r.records) {
				t.Errorf("export gives %d bytes, want %d behind a header: %v\n%s", len(out), len(r.records), err, said)
			}
			if out, said, err := command("poip-relay", "history", "verify", "--config", config); err != nil || !strings.Contains(string(out), "branch-7/feed: ok") {
				t.Errorf("verify: %v\n%s%s", err, out, said)
			}
			r.startRelay(r.relayWith(r.historyKey)).stop()
		})
	}
}

// Who has another key, or none, is told which one it takes; and nothing that is
// on the disk is changed.
func TestAnotherKeyOpensNothing(t *testing.T) {
	r := newResting(t, true)
	r.spool()
	spool := filesBelow(t, r.path("branch-7", "spool"))
	other := r.newKey("other.key", "7")
	for _, key := range []string{"", fmt.Sprintf("spool_key = %q\n", other)} {
		a := r.agent("tls://127.0.0.1:1", key, "sleep 60")
		line := a.WaitMessage("no spool: what does not fit into memory will be lost")
		if text := fmt.Sprint(line["error"], line["remedy"]); !strings.Contains(text, "they need key ") || !strings.Contains(text, "spool_key") {
			t.Errorf("the agent says %s", text)
		}
		a.Kill()
	}
	same(t, spool, filesBelow(t, r.path("branch-7", "spool")))

	r.deliver()
	history := filesBelow(t, r.path("relay", "history"))
	for _, key := range []string{"", fmt.Sprintf("history_key = %q\n", other)} {
		config := r.write("other.toml", r.relayWith(key))
		if _, said, err := command("poip-relay", "run", "--config", config); err == nil || !strings.Contains(said, "stream.history_key") || !strings.Contains(said, "they need key ") {
			t.Errorf("with %q the relay ends with %v:\n%s", key, err, said)
		}
		for _, what := range [][]string{{"list"}, {"verify"}, {"export", "branch-7/feed"}} {
			if _, said, err := command("poip-relay", append(append([]string{"history"}, what...), "--config", config)...); err == nil || !strings.Contains(said, "--key") {
				t.Errorf("with %q, %s ends with %v:\n%s", key, what, err, said)
			}
		}
	}
	same(t, history, filesBelow(t, r.path("relay", "history")))
	relay := r.startRelay(r.relayWith(r.historyKey))
	for _, key := range []string{r.spoolKey, fmt.Sprintf("spool_key = %q\n", other)} { // a spool that was delivered takes any key
		before := relay.metric("poip_relay_received_packets_total")
		a := r.agent(relay.intake("tls"), key, "cat "+r.path("packets.pcap")+"; sleep 60")
		eventually(t, "packets come", func() bool { return relay.metric("poip_relay_received_packets_total") == before+float64(r.n) })
		a.stop()
		if n := a.Count(func(l logLine) bool { return strings.HasPrefix(fmt.Sprint(l["msg"]), "no spool") }); n > 0 {
			t.Errorf("with %q the agent does not use an empty spool", key)
		}
	}
	relay.stop()
	if out, said, err := command("poip-relay", "history", "export", "branch-7/feed", "--data", r.path("relay"), "--key", r.path("history.key")); err != nil || bytes.Count(out, []byte(planted)) != 3*r.n {
		t.Errorf("by --data and --key export gives %d bytes: %v\n%s", len(out), err, said)
	}
}

func same(t *testing.T, before, after map[string][]byte) {
	t.Helper()
	for path, text := range before {
		if !bytes.Equal(text, after[path]) {
			t.Errorf("%s has changed", path)
		}
	}
	if len(before) != len(after) || len(before) < 3 {
		t.Errorf("there were %d files, and are %d", len(before), len(after))
	}
}

// A key that others may read, or that lies beside the packets, is refused by
// run and by check, which has no good word for it either.
func TestKeysLieWhereTheyShould(t *testing.T) {
	r := newResting(t, true)
	r.startRelay(r.relayWith(r.historyKey)).stop()
	wide := r.newKey("wide.key", "8")
	if err := os.Chmod(wide, 0o640); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		r.path("history.key"): "",
		wide:                  "chmod 0600",
		r.write("relay/in.key", strings.Repeat("8", 64)):    "within the data folder",
		r.write("branch-7/in.key", strings.Repeat("8", 64)): "within the data folder",
		r.path("packets.pcap"):                              "hexadecimal",
	} {
		relayConfig := r.write("relay.toml", r.relayWith(fmt.Sprintf("history_key = %q\n", path)))
		capture := fmt.Sprintf("file = %q\n", r.path("packets.pcap"))
		agentConfig := r.write("agent.toml", strings.Replace(r.agentTOML("branch-7", "tls://127.0.0.1:1", capture), "[agent]\n", fmt.Sprintf("[agent]\nspool_key = %q\n", path), 1))
		for program, config := range map[string]string{"poip-relay": relayConfig, "poip-agent": agentConfig} {
			own := map[string]string{"poip-relay": "relay", "poip-agent": "branch-7"}[program]
			elsewhere := want == "within the data folder" && filepath.Dir(path) != r.path(own)
			for _, verb := range []string{"check", "run"} {
				if verb == "run" && (want == "" || elsewhere) {
					continue // it would
				}
				_, said, err := command(program, verb, "--config", config)
				switch {
				case (want == "" || elsewhere) && err != nil:
					t.Errorf("%s %s with %s: %v\n%s", program, verb, path, err, said)
				case want != "" && !elsewhere && (err == nil || !strings.Contains(said, want)):
					t.Errorf("%s %s with %s: %v, want %q\n%s", program, verb, path, err, want, said)
				}
				if strings.Contains(said, strings.Repeat("8", 8)) {
					t.Errorf("%s shows the key:\n%s", program, said)
				}
			}
		}
	}
}
