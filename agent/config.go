package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"poip/agent/capture"
	"poip/auth"
	"poip/internal/config"
	"poip/internal/confine"
	"poip/internal/pcap"
	"poip/internal/transport"
)

// Config is the [agent] table. config.example.toml documents every key.
type Config struct {
	Relay         Relays          `toml:"relay"`
	RelayName     string          `toml:"relay_name"`
	Data          string          `toml:"data"`
	Memory        config.Size     `toml:"memory"`
	Congestion    string          `toml:"congestion"`
	Spool         config.Size     `toml:"spool"`
	SpoolOverflow Overflow        `toml:"spool_overflow"`
	SpoolSync     SpoolSync       `toml:"spool_sync"`
	SpoolKey      string          `toml:"spool_key"` // file of the key that encrypts it; "": none
	Admin         AdminConfig     `toml:"admin"`
	User          string          `toml:"user"`
	Confine       confine.Mode    `toml:"confine"`
	Captures      []CaptureConfig `toml:"capture"`
}

// AdminConfig is the table [agent.admin].
type AdminConfig struct {
	Listen string `toml:"listen"` // on loopback; empty is off
}

// CaptureConfig is one [[agent.capture]]. Exactly one of Interface, File,
// Stdin and Command says where packets come from.
type CaptureConfig struct {
	Name          string            `toml:"name"`
	Interface     string            `toml:"interface"`
	File          string            `toml:"file"`
	Stdin         bool              `toml:"stdin"`
	Command       []string          `toml:"command"`
	Filter        string            `toml:"filter"`
	FilterProgram string            `toml:"filter_program"`
	Snaplen       config.Count      `toml:"snaplen"`     // 0 is pcap.MaxCaptured
	Promiscuous   *bool             `toml:"promiscuous"` // nil is true
	Direction     capture.Direction `toml:"direction"`
	Latency       capture.Latency   `toml:"latency"` // empty is normal
	Pace          string            `toml:"pace"`    // a capture.Pace; empty is max
}

// leastSpool has room for a few segments, in bytes.
const leastSpool = 4 << 20

// leastMemory has room for a few of the largest packets, in bytes.
const leastMemory = 1 << 20

// DefaultConfig is what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		Memory: 64 << 20, Congestion: "auto", Confine: confine.Auto,
		Spool: 1 << 30, SpoolOverflow: OverflowDropOldest, SpoolSync: SyncPeriodic,
		Admin: AdminConfig{Listen: "127.0.0.1:57081"},
	}
}

// Relays are endpoints, tried in order. In the file they are one string or a
// list of strings.
type Relays []transport.Endpoint

// ParseRelays reads endpoints.
func ParseRelays(texts ...string) (Relays, error) {
	var relays Relays
	for _, text := range texts {
		ep, err := transport.ParseEndpoint(text)
		if err != nil {
			return nil, err
		}
		relays = append(relays, ep)
	}
	return relays, nil
}

// UnmarshalTOML reads a string or a list of strings.
func (r *Relays) UnmarshalTOML(value any) (err error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var texts []string
	for _, v := range list {
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("relay = %v: want \"tls://HOST:PORT\", \"quic://HOST:PORT\", or a list of these", v)
		}
		texts = append(texts, text)
	}
	*r, err = ParseRelays(texts...)
	return err
}

// Check fills in what follows from other keys, and says everything that is
// wrong, by key and with a remedy.
func (c *Config) Check() error {
	var wrong []error
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if len(c.Relay) == 0 {
		say("relay is missing: say where the relay is, as in \"tls://relay.example:57011\"")
	}
	if c.Data == "" {
		say("data is missing: name the directory with sensor.pem, sensor.key and ca.pem")
	}
	if c.Memory < leastMemory {
		say("memory = %q: want at least \"1MiB\"", c.Memory)
	}
	if c.Congestion == "" {
		say("congestion is empty: want \"auto\" or a name that the kernel knows, as in \"cubic\"")
	}
	if err := c.Confine.Check(); err != nil {
		say("%w", err)
	}
	for _, err := range c.checkSpool() {
		say("%w", err)
	}
	if err := c.Admin.check(); err != nil {
		say("%w", err)
	}
	if len(c.Captures) == 0 {
		say("no capture: add [[agent.capture]] with interface, file, stdin or command")
	}
	names := map[string]bool{}
	for i := range c.Captures {
		capture := &c.Captures[i]
		capture.fill()
		for _, err := range capture.check() {
			say("[[agent.capture]] %d, %q: %w", i+1, capture.Name, err)
		}
		if names[capture.Name] {
			say("[[agent.capture]] %d, %q: another capture has that name: give each one its own", i+1, capture.Name)
		}
		names[capture.Name] = true
	}
	if c.stdins() > 1 {
		say("%d captures read standard input: there is only one", c.stdins())
	}
	return errors.Join(wrong...)
}

func (c *Config) checkSpool() (wrong []error) {
	choose := func(key, value string, choices ...string) {
		if !slices.Contains(choices, value) {
			wrong = append(wrong, fmt.Errorf("%s = %q: want one of %q", key, value, choices))
		}
	}
	if c.Spool != 0 && c.Spool < leastSpool {
		wrong = append(wrong, fmt.Errorf("spool = %q: want at least \"4MiB\", or \"0\" for none", c.Spool))
	}
	choose("spool_overflow", string(c.SpoolOverflow), string(OverflowDropOldest), string(OverflowDropNewest), string(OverflowBlock))
	choose("spool_sync", string(c.SpoolSync), string(SyncPeriodic), string(SyncBatch))
	return wrong
}

// check: whoever may look may do so on this machine only.
func (a AdminConfig) check() error {
	if a.Listen == "" {
		return nil
	}
	addr, err := netip.ParseAddrPort(a.Listen)
	switch {
	case err != nil:
		return fmt.Errorf("admin.listen = %q: want an address and a port, as in \"127.0.0.1:57081\", or \"\" for none", a.Listen)
	case !addr.Addr().IsLoopback():
		return fmt.Errorf("admin.listen = %q is not loopback: write \"127.0.0.1:57081\", and reach it by ssh from elsewhere", a.Listen)
	}
	return nil
}

func (c *Config) stdins() (n int) {
	for _, capture := range c.Captures {
		if capture.Stdin {
			n++
		}
	}
	return n
}

// fill sets what follows from other keys.
func (c *CaptureConfig) fill() {
	if c.Name == "" {
		c.Name = c.defaultName()
	}
	if c.Snaplen == 0 {
		c.Snaplen = pcap.MaxCaptured
	}
	if c.Latency == "" {
		c.Latency = capture.LatencyNormal
	}
	if c.Pace == "" {
		c.Pace = string(capture.PaceMax)
	}
}

// notInNames are runs of what a name may not have.
var notInNames = regexp.MustCompile(`[^a-z0-9._-]+`)

// defaultName is made from what is captured.
func (c *CaptureConfig) defaultName() string {
	var from string
	switch {
	case c.Interface != "":
		from = c.Interface
	case c.File != "":
		base := filepath.Base(c.File)
		from = strings.TrimSuffix(base, filepath.Ext(base))
	case c.Stdin:
		from = "stdin"
	case len(c.Command) > 0:
		from = filepath.Base(c.Command[0])
	}
	name := notInNames.ReplaceAllString(strings.ToLower(from), "-")
	name = strings.Trim(name, "._-")
	return name[:min(len(name), auth.MaxNameLen)]
}

// finite says that the capture ends by itself, and what it reads can wait.
func (c *CaptureConfig) finite() bool { return c.File != "" || c.Stdin }

// finiteAhead is how much a finite capture has read and not sent yet, in bytes at
// most. More would only grow cold in the processor's cache before it is sent, and can
// wait where it is.
const finiteAhead = 4 << 20

// memory is what the capture's streams may hold, of what is allowed.
func (c *CaptureConfig) memory(allowed config.Size) *memory {
	m := newMemory(int64(allowed))
	if c.finite() {
		m.ahead = finiteAhead
	}
	return m
}

// check returns everything that is wrong with one capture.
func (c *CaptureConfig) check() (wrong []error) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if _, err := auth.ParseCaptureName(c.Name); err != nil {
		say("name: %w", err)
	}
	if n := c.origins(); n != 1 {
		say("it has %d of interface, file, stdin and command: want exactly one", n)
	}
	if c.Command != nil && (len(c.Command) == 0 || c.Command[0] == "") {
		say("command is empty: want a program and its arguments, as in [\"tcpdump\", \"-U\", \"-w\", \"-\"]")
	}
	if c.Snaplen < 1 || c.Snaplen > pcap.MaxCaptured {
		say("snaplen = %d: want 1 to %d", c.Snaplen, pcap.MaxCaptured)
	}
	if c.Filter != "" && c.FilterProgram != "" {
		say("it has both filter and filter_program: want one")
	}
	return append(wrong, c.checkChoices()...)
}

// origins counts where packets come from.
func (c *CaptureConfig) origins() (n int) {
	for _, given := range []bool{c.Interface != "", c.File != "", c.Stdin, c.Command != nil} {
		if given {
			n++
		}
	}
	return n
}

// checkChoices looks at keys with few values, and at those that only some
// captures have.
func (c *CaptureConfig) checkChoices() (wrong []error) {
	choose := func(key, value string, choices ...string) {
		if !slices.Contains(choices, value) {
			wrong = append(wrong, fmt.Errorf("%s = %q: want one of %q", key, value, choices))
		}
	}
	only := func(kind string, given, right bool, key string) {
		if given && !right {
			wrong = append(wrong, fmt.Errorf("%s is for captures of %s: take it out", key, kind))
		}
	}
	choose("direction", string(c.Direction), "", string(capture.DirectionIn), string(capture.DirectionOut))
	choose("latency", string(c.Latency), string(capture.LatencyNormal), string(capture.LatencyLow))
	choose("pace", c.Pace, string(capture.PaceMax), string(capture.PaceOriginal))
	live := c.Interface != ""
	only("an interface", c.Direction != "", live, "direction")
	only("an interface", c.Promiscuous != nil, live, "promiscuous")
	only("an interface", c.Latency != capture.LatencyNormal, live, "latency")
	only("a file", c.Pace != string(capture.PaceMax), c.File != "", "pace")
	return wrong
}

// promiscuous is on unless switched off.
func (c *CaptureConfig) promiscuous() bool { return c.Promiscuous == nil || *c.Promiscuous }
