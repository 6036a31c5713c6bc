package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"poip/agent/capture"
	"poip/internal/config"
	"poip/internal/pcap"
	"poip/internal/transport"
)

func readConfig(t *testing.T, text string) (Config, error) {
	t.Helper()
	cfg := DefaultConfig()
	if err := config.Decode("f.toml", []byte(text), "agent", &cfg); err != nil {
		return cfg, err
	}
	return cfg, cfg.Check()
}

const base = "[agent]\nrelay = \"tls://relay.example\"\ndata = \"d\"\n"

func TestConfigIsRead(t *testing.T) {
	cfg, err := readConfig(t, `[agent]
relay = ["quic://relay.example:1", "tls://[2001:db8::1]:2"]
relay_name = "r"
data = "/var/lib/poip-agent"
memory = "32MiB"
congestion = "bbr"
[[agent.capture]]
name = "a"
interface = "eth0"
filter = "not port 22"
snaplen = 96
promiscuous = false
direction = "in"
latency = "low"
[[agent.capture]]
file = "/tmp/Some Trace.pcapng"
pace = "original"
filter_program = "1\n6 0 0 262144"
[[agent.capture]]
command = ["tcpdump", "-U", "-w", "-"]
[[agent.capture]]
stdin = true
`)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Relays{{Scheme: "quic", Host: "relay.example", Port: 1}, {Scheme: "tls", Host: "2001:db8::1", Port: 2}}); cfg.Relay[0] != want[0] || cfg.Relay[1] != want[1] {
		t.Errorf("relays %+v", cfg.Relay)
	}
	if cfg.Memory != 32<<20 || cfg.RelayName != "r" || cfg.Congestion != "bbr" {
		t.Errorf("read %+v", cfg)
	}
	a := cfg.Captures[0]
	if a.Snaplen != 96 || a.promiscuous() || a.Direction != capture.DirectionIn || a.Latency != capture.LatencyLow || a.finite() {
		t.Errorf("read %+v", a)
	}
	for i, name := range []string{"a", "some-trace", "tcpdump", "stdin"} {
		if got := cfg.Captures[i].Name; got != name {
			t.Errorf("capture %d is called %q, want %q", i, got, name)
		}
	}
}

func TestConfigHasDefaults(t *testing.T) {
	cfg, err := readConfig(t, base+"[[agent.capture]]\ninterface = \"eth0\"\n")
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Captures[0]
	if cfg.Spool != 1<<30 || cfg.SpoolOverflow != OverflowDropOldest || cfg.SpoolSync != SyncPeriodic || cfg.Admin.Listen != "127.0.0.1:57081" {
		t.Errorf("read %+v", cfg)
	}
	if cfg.Memory != 64<<20 || cfg.Congestion != "auto" || c.Name != "eth0" || c.Snaplen != 262144 || !c.promiscuous() || c.Latency != capture.LatencyNormal {
		t.Errorf("read %+v", cfg)
	}
	if want := (transport.Endpoint{Scheme: "tls", Host: "relay.example", Port: 57011}); cfg.Relay[0] != want {
		t.Errorf("relay %+v", cfg.Relay)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	eth0 := "[[agent.capture]]\ninterface = \"eth0\"\n"
	for _, c := range []struct{ text, want string }{
		{"[agent]\n", "relay is missing"},
		{"[agent]\n", "data is missing"},
		{"[agent]\n", "no capture"},
		{"[agent]\nrelay = \"http://x\"\n", "write tls://HOST:PORT or quic://HOST:PORT"},
		{"[agent]\nrelay = 5\n", "want \"tls://HOST:PORT\""},
		{"[agent]\nrelay = [\"tls://a\", 5]\n", "or a list of these"},
		{base + "memory = \"1KiB\"\n" + eth0, "memory = \"1KiB\": want at least \"1MiB\""},
		{base + "spool = \"1MiB\"\n" + eth0, "spool = \"1MiB\": want at least \"4MiB\", or \"0\" for none"},
		{base + "spool_overflow = \"drop\"\n" + eth0, "spool_overflow = \"drop\": want one of"},
		{base + "spool_sync = \"never\"\n" + eth0, "spool_sync = \"never\": want one of"},
		{base + "[agent.admin]\nlisten = \"localhost\"\n" + eth0, "admin.listen = \"localhost\": want an address and a port"},
		{base + "[agent.admin]\nlisten = \"0.0.0.0:57081\"\n" + eth0, "is not loopback"},
		{base + eth0 + "file = \"x\"\n", "it has 2 of interface, file, stdin and command"},
		{base + "[[agent.capture]]\nname = \"a\"\n", "it has 0 of interface"},
		{base + "[[agent.capture]]\ncommand = []\n", "command is empty"},
		{base + "[[agent.capture]]\nname = \"Eth 0\"\ninterface = \"eth0\"\n", `name: capture name "Eth 0"`},
		{base + eth0 + eth0, "another capture has that name"},
		{base + eth0 + "snaplen = 262145\n", "snaplen = 262145: want 1 to 262144"},
		{base + eth0 + "snaplen = -1\n", "at least 1"},
		{base + eth0 + "snaplen = 0\n", "at least 1"},
		{base + eth0 + "filter = \"tcp\"\nfilter_program = \"1\\n6 0 0 1\"\n", "both filter and filter_program"},
		{base + eth0 + "direction = \"up\"\n", "direction = \"up\""},
		{base + eth0 + "latency = \"lowest\"\n", "latency = \"lowest\""},
		{base + eth0 + "pace = \"slow\"\n", "pace = \"slow\""},
		{base + eth0 + "pace = \"original\"\n", "pace is for captures of a file"},
		{base + "[[agent.capture]]\nfile = \"x\"\ndirection = \"in\"\n", "direction is for captures of an interface"},
		{base + "[[agent.capture]]\nfile = \"x\"\npromiscuous = true\n", "promiscuous is for captures of an interface"},
		{base + "[[agent.capture]]\nstdin = true\nlatency = \"low\"\n", "latency is for captures of an interface"},
		{base + "[[agent.capture]]\nstdin = true\n[[agent.capture]]\nname = \"b\"\nstdin = true\n", "2 captures read standard input"},
		{base + eth0 + "promiscous = true\n", "unknown key"},
	} {
		if _, err := readConfig(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngot %v, want %s", c.text, err, c.want)
		}
	}
}

func TestExampleConfigIsGood(t *testing.T) {
	cfg := DefaultConfig()
	if err := config.Load("../config.example.toml", "agent", &cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Check(); err != nil {
		t.Error(err)
	}
}

func TestTryFindsWhatWouldFailLater(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(file, pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, true), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		config CaptureConfig
		want   string // "" is nothing
	}{
		{CaptureConfig{File: file}, ""},
		{CaptureConfig{File: file, Filter: "tcp port 80"}, ""},
		{CaptureConfig{File: file, Filter: "wlan type mgt"}, "802.11"},
		{CaptureConfig{File: os.DevNull}, "not a regular file"},
		{CaptureConfig{File: "config_test.go"}, "not a pcap or pcapng file"},
		{CaptureConfig{Stdin: true, Filter: "wlan type mgt"}, ""},
		{CaptureConfig{Stdin: true, Filter: "rulenum 10"}, ""},
		{CaptureConfig{Stdin: true, Filter: "tcp port"}, "syntax error"},
		{CaptureConfig{Command: []string{"no-such-program"}}, "executable file not found"},
		{CaptureConfig{Interface: "any", Filter: "ether host 1:2:3:4:5:6"}, "ethernet addresses"},
		{CaptureConfig{Interface: "not-there-yet", Filter: "vlan 5 and tcp"}, ""},
		{CaptureConfig{Interface: "much-longer-than-names-are"}, "names have 1 to 15"},
		{CaptureConfig{File: file, FilterProgram: "1\n6 0 0 262144"}, ""},
		{CaptureConfig{File: file + "x"}, "no such file"},
		{CaptureConfig{File: file, Filter: "tcp port"}, "syntax error"},
		{CaptureConfig{Interface: "lo", Filter: "tcp prot 80"}, "syntax error"},
		{CaptureConfig{File: file, FilterProgram: "two"}, "filter_program: "},
	} {
		c.config.fill()
		err := c.config.Try(t.Context())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: got %v, want %q", c.config, err, c.want)
		}
	}
}
