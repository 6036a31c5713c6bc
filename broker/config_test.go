package broker

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	valid := func() Config {
		c := DefaultConfig()
		c.Name, c.Data = "relay.example", "/nowhere"
		c.Listeners = []ListenerConfig{
			{Name: "branches", Listen: "127.0.0.1:57012", Streams: []string{"*/*"}, Allow: []string{"127.0.0.0/8", "::1/128"}},
			{Name: "each", Listen: "[::1]:57100-57199", Streams: []string{"*/*"}, Each: true},
		}
		return c
	}
	if err := valid().Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want   string
		change func(*Config)
	}{
		{"key name is missing", func(c *Config) { c.Name = "" }},
		{"key data is missing", func(c *Config) { c.Data = "" }},
		{"both off", func(c *Config) { c.Intake.TCP, c.Intake.QUIC = "", "" }},
		{"key intake.tcp", func(c *Config) { c.Intake.TCP = "57011" }},
		{"key intake.quic", func(c *Config) { c.Intake.QUIC = "relay.example:57011" }},
		{"key admin.listen: 0.0.0.0:57080 is reached from elsewhere", func(c *Config) { c.Admin.Listen = "0.0.0.0:57080" }},
		{"reached from elsewhere", func(c *Config) { c.Admin.Listen = ":57080" }},
		{"key intake.window", func(c *Config) { c.Intake.Window = 1 }},
		{"key stream.memory", func(c *Config) { c.Stream.Memory = 1 }},
		{"at least 1", func(c *Config) { c.Intake.MaxStreams = 0 }},
		{"taken by listener", func(c *Config) { c.Listeners[1].Listen = ":57012"; c.Listeners[1].AllowPlaintext = true }},
		{"is taken; give each", func(c *Config) { c.Listeners[1].Name = "branches" }},
		{"key name: \"no good\"", func(c *Config) { c.Listeners[0].Name = "no good" }},
		{"key listen", func(c *Config) { c.Listeners[0].Listen = "" }},
		{"write an IP address, not a name", func(c *Config) { c.Listeners[0].Listen = "localhost:57012" }},
		{"set tls = true, or allow_plaintext = true", func(c *Config) { c.Listeners[0].Listen = "0.0.0.0:57012" }},
		{"set tls = true, or allow_plaintext = true", func(c *Config) { c.Listeners[0].Listen = "192.0.2.1:57012" }},
		{"set each = true", func(c *Config) { c.Listeners[1].Each = false }},
		{"want one port, 0 to 65535, or a range", func(c *Config) { c.Listeners[1].Listen = "127.0.0.1:5-3" }},
		{"key streams is missing", func(c *Config) { c.Listeners[0].Streams = nil }},
		{"key streams: pattern", func(c *Config) { c.Listeners[0].Streams = []string{"*"} }},
		{"is not a network", func(c *Config) { c.Listeners[0].Allow = []string{"192.0.2.7"} }},
		{"write the IPv4 network itself", func(c *Config) { c.Listeners[0].Allow = []string{"::ffff:192.0.2.0/120"} }},
		{"key format", func(c *Config) { c.Listeners[0].Format = "pcapng" }},
		{"key snaplen", func(c *Config) { c.Listeners[0].Snaplen = 262145 }},
		{"key overflow", func(c *Config) { c.Listeners[0].Overflow = "drop" }},
		{"key start", func(c *Config) { c.Listeners[0].Start = "soon" }},
		{"reaches behind what is in memory", func(c *Config) { c.Listeners[0].Start = "1h" }},
		{"key end", func(c *Config) { c.Listeners[0].End = "never" }},
		{"sees no certificate", func(c *Config) { c.Listeners[0].ClientAuth = "cert" }},
		{"key max_connections", func(c *Config) { c.Listeners[0].MaxConnections = -1 }},
		{"key write_buffer", func(c *Config) { c.Listeners[0].WriteBuffer = 1 }},
	} {
		cfg := valid()
		c.change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestPlaintextMayBeAllowed(t *testing.T) {
	c := DefaultConfig()
	c.Name, c.Data = "relay.example", "/nowhere"
	c.Listeners = []ListenerConfig{{Name: "open", Listen: ":57012", Streams: []string{"*/*"}, AllowPlaintext: true, Snaplen: 262144, Format: "pcap-ns"}}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	warnings := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{"allow is empty", "unencrypted", "snaplen is 262144", "pcap-ns"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning of %q in %q", want, warnings)
		}
	}
}

func TestAllow(t *testing.T) {
	compile := func(allow ...string) plan {
		p, err := plain("p", func(l *ListenerConfig) { l.Allow = allow }).compile()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		allow []string
		addr  string
		want  bool
	}{
		{nil, "127.0.0.1", false},
		{[]string{"127.0.0.0/8"}, "127.1.2.3", true},
		{[]string{"127.0.0.0/8"}, "::ffff:127.0.0.1", true},
		{[]string{"127.0.0.0/8"}, "128.0.0.1", false},
		{[]string{"0.0.0.0/0"}, "::1", false},
		{[]string{"::/0"}, "192.0.2.1", false},
		{[]string{"fe80::/10"}, "fe80::1%eth0", true},
		{[]string{"192.0.2.77/24"}, "192.0.2.1", true},
		{[]string{"10.0.0.0/8", "192.0.2.7/32"}, "192.0.2.7", true},
		{[]string{"192.0.2.7/32"}, "192.0.2.8", false},
	} {
		if got := compile(c.allow...).admits(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%v admits %s: %t", c.allow, c.addr, got)
		}
	}
	if compile("127.0.0.0/8").admits(netip.Addr{}) {
		t.Error("nobody was admitted")
	}
}
