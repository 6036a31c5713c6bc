package broker

import (
	"errors"
	"fmt"
	"math"
	"time"

	"poip/internal/audit"
	"poip/internal/config"
	"poip/internal/confine"
	"poip/internal/pcap"
)

// Config is the table [relay] of the configuration file.
type Config struct {
	Name      string           `toml:"name"`
	Data      string           `toml:"data"`
	Confine   confine.Mode     `toml:"confine"` // empty is auto
	Intake    IntakeConfig     `toml:"intake"`
	Admin     AdminConfig      `toml:"admin"`
	Stream    StreamConfig     `toml:"stream"`
	Certs     CertsConfig      `toml:"certs"`
	Limits    LimitsConfig     `toml:"limits"`
	Audit     AuditConfig      `toml:"audit"`
	Analysts  []AnalystConfig  `toml:"analyst"`
	Listeners []ListenerConfig `toml:"listener"`
}

// IntakeConfig is the table [relay.intake].
type IntakeConfig struct {
	TCP                 string      `toml:"tcp"`  // address and port; "" is off
	QUIC                string      `toml:"quic"` // the same, over UDP
	Window              config.Size `toml:"window"`
	MaxStreamsPerSensor int         `toml:"max_streams_per_sensor"`
	MaxStreams          int         `toml:"max_streams"`
	MaxRate             config.Size `toml:"max_rate"` // bytes a second of one sensor; 0: as it comes
}

// StreamConfig is the table [relay.stream].
type StreamConfig struct {
	Memory      config.Size     `toml:"memory"`       // of the ring of each stream
	History     config.Size     `toml:"history"`      // on disk, for each stream; 0 is off
	HistoryAge  config.Duration `toml:"history_age"`  // after which a packet may go; 0: by size alone
	HistoryFull string          `toml:"history_full"` // when the disk is full: hold, drop_oldest
	HistoryKey  string          `toml:"history_key"`  // file of the key that encrypts it; "": none
}

// CertsConfig is the table [relay.certs]: how long certificates live that the
// relay makes.
type CertsConfig struct {
	Sensor  config.Duration `toml:"sensor"`
	Relay   config.Duration `toml:"relay"`
	Analyst config.Duration `toml:"analyst"`
}

// check wants lives in which there is time to renew.
func (c CertsConfig) check() (errs []error) {
	for _, k := range []struct {
		key  string
		life config.Duration
	}{{"sensor", c.Sensor}, {"relay", c.Relay}, {"analyst", c.Analyst}} {
		if life := time.Duration(k.life); life < 10*time.Second || life > 10*365*24*time.Hour {
			errs = append(errs, fmt.Errorf("key certs.%s: %s: want 10s to ten years, as in \"168h\"", k.key, k.life))
		}
	}
	return errs
}

// ListenerConfig is one [[relay.listener]]. Zero values mean the defaults.
type ListenerConfig struct {
	Name           string       `toml:"name"`
	Listen         string       `toml:"listen"` // address and port, or with Each a range of ports
	Streams        []string     `toml:"streams"`
	Each           bool         `toml:"each"`
	TLS            bool         `toml:"tls"`
	ClientAuth     string       `toml:"client_auth"` // none, cert
	Allow          []string     `toml:"allow"`
	Deny           []string     `toml:"deny"` // wins over Allow
	AllowPlaintext bool         `toml:"allow_plaintext"`
	Format         string       `toml:"format"` // pcap, pcap-ns
	Snaplen        config.Count `toml:"snaplen"`
	Overflow       string       `toml:"overflow"` // skip, disconnect, block
	Start          string       `toml:"start"`    // live, oldest, how far back, a time
	End            string       `toml:"end"`      // wait, close
	MaxConnections config.Count `toml:"max_connections"`
	WriteBuffer    config.Size  `toml:"write_buffer"`
}

// DefaultConfig is what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		Confine: confine.Auto,
		Intake: IntakeConfig{
			TCP:                 ":57011",
			QUIC:                ":57011",
			Window:              16 << 20,
			MaxStreamsPerSensor: 64,
			MaxStreams:          1024,
		},
		Admin:  AdminConfig{Listen: "127.0.0.1:57080", ClientAuth: "none", Hosts: []string{}},
		Limits: LimitsConfig{Pending: 256, PendingPerAddress: 32},
		Audit:  AuditConfig{File: audit.File, Size: 64 << 20, Keep: 8},
		Stream: StreamConfig{Memory: 64 << 20, HistoryAge: config.Duration(24 * time.Hour), HistoryFull: "hold"},
		Certs:  CertsConfig{Sensor: week, Relay: quarter, Analyst: quarter},
	}
}

const (
	week    = config.Duration(7 * 24 * time.Hour)
	quarter = config.Duration(90 * 24 * time.Hour)
)

// withDefaults fills in what the file left out; client_auth only where check
// does not insist on it.
func (l ListenerConfig) withDefaults() ListenerConfig {
	text := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	text(&l.ClientAuth, "none")
	text(&l.Format, "pcap")
	text(&l.Overflow, "skip")
	text(&l.Start, "live")
	text(&l.End, "wait")
	if l.Snaplen == 0 {
		l.Snaplen = widelyRead
	}
	if l.MaxConnections == 0 {
		l.MaxConnections = 1024
	}
	if l.WriteBuffer == 0 {
		l.WriteBuffer = 256 << 10
	}
	return l
}

// widelyRead is the longest captured length that Arkime and Zeek take.
const widelyRead = 65535

// Check says everything that is wrong with the configuration, by key and
// with the remedy.
func (c Config) Check() error {
	_, err := c.compile()
	return err
}

// Warnings says what is allowed and perhaps not meant.
func (c Config) Warnings() []string {
	var out []string
	if len(c.Listeners) == 0 {
		out = append(out, "no [[relay.listener]]: packets are taken in and nobody can read them")
	}
	out = append(out, c.Admin.warnings()...)
	if c.Audit.File == "" {
		out = append(out, "audit.file is empty: nobody records who reads what; the default is "+audit.File)
	}
	for _, l := range c.Listeners {
		l = l.withDefaults()
		warn := func(format string, args ...any) {
			out = append(out, fmt.Sprintf("listener %q: ", l.Name)+fmt.Sprintf(format, args...))
		}
		if len(l.Allow) == 0 {
			warn("allow is empty: nobody may connect")
		}
		if l.Snaplen > widelyRead {
			warn("snaplen is %d: Arkime and Zeek read at most %d", l.Snaplen, widelyRead)
		}
		out = append(out, c.accessWarnings(l)...)
		if l.Format == "pcap-ns" {
			warn("format is pcap-ns: Zeek and older Arkime read pcap only")
		}
		if p, err := l.compile(); err == nil && !l.TLS && !p.host.IsLoopback() {
			warn("packets leave this machine unencrypted")
		}
	}
	return out
}

// compile checks the configuration and makes plans of its listeners.
func (c Config) compile() ([]plan, error) {
	errs := append(c.checkRelay(), c.checkAccess()...)
	names := make(map[string]bool)
	var plans []plan
	own := c.ownDoors()
	for i, q := range own {
		for _, other := range own[:i] {
			if q.collides(other) {
				errs = append(errs, fmt.Errorf("key %s: %s is taken by %s; choose another port", q.config.Name, q.config.Listen, other.config.Name))
			}
		}
	}
	for i, l := range c.Listeners {
		p, err := l.compile()
		if err != nil {
			errs = append(errs, config.Within(fmt.Sprintf("listener %d %q", i+1, l.Name), err))
			continue
		}
		if names[l.Name] {
			errs = append(errs, fmt.Errorf("listener %d: the name %q is taken; give each its own", i+1, l.Name))
		}
		if p.terms.start.needsHistory() && c.Stream.History == 0 {
			errs = append(errs, fmt.Errorf("listener %q: key start: %s reaches behind what is in memory: set stream.history, or write live or oldest", l.Name, l.Start))
		}
		names[l.Name] = true
		for _, other := range plans {
			if p.collides(other) {
				errs = append(errs, fmt.Errorf("listener %q: %s is taken by listener %q; choose another port", l.Name, l.Listen, other.config.Name))
			}
		}
		for _, other := range own {
			if p.collides(other) {
				errs = append(errs, fmt.Errorf("listener %q: %s is taken by %s; choose another port", l.Name, l.Listen, other.config.Name))
			}
		}
		plans = append(plans, p)
	}
	return plans, errors.Join(errs...)
}

// ownDoors are the relay's own TCP ports, as far as they can be read.
func (c Config) ownDoors() (out []plan) {
	for _, l := range []ListenerConfig{{Name: "intake.tcp", Listen: c.Intake.TCP}, {Name: "admin.listen", Listen: c.Admin.Listen}} { // a socket's path does not parse
		p := plan{config: l}
		var err error
		if p.host, p.low, p.high, err = parseListen(l.Listen); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func (c Config) checkRelay() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("key name is missing: write the relay's name as its certificate says it")
	}
	if err := c.Confine.Check(); err != nil {
		bad("key %w", err)
	}
	if c.Data == "" {
		bad("key data is missing: write the directory that `poip-relay init` made")
	}
	if c.Intake.TCP == "" && c.Intake.QUIC == "" {
		bad("intake: tcp and quic are both off: no agent could connect; set one, as in tcp = \":57011\"")
	}
	for key, address := range map[string]string{"intake.tcp": c.Intake.TCP, "intake.quic": c.Intake.QUIC} {
		if _, low, high, err := parseListen(address); address != "" && err != nil {
			bad("key %s: %w", key, err)
		} else if low != high {
			bad("key %s: %s is a range of ports: name one", key, address)
		}
	}
	if w := c.Intake.Window; w < 1<<20 || w > 1<<30 {
		bad("key intake.window: %s: want 1MiB to 1GiB", w)
	}
	if c.Intake.MaxStreamsPerSensor < 1 || c.Intake.MaxStreams < 1 {
		bad("intake: max_streams_per_sensor and max_streams are at least 1")
	}
	if m := c.Stream.Memory; m < leastMemory || m > mostMemory {
		bad("key stream.memory: %s: want 2MiB to %s", m, mostMemory)
	}
	errs = append(errs, c.Certs.check()...)
	return append(errs, c.Stream.checkHistory()...)
}

// leastMemory holds the largest batch, and some segments beside it. The most
// leaves room for a window, on machines of 32 bits too.
const leastMemory = 2 << 20

var mostMemory = config.Size(min(int64(math.MaxInt)/2+1, 1<<40))

// check holds the keys that take one of few values against these.
func (l ListenerConfig) check() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(key, value string, values ...string) {
		for _, v := range values {
			if v == value {
				return
			}
		}
		bad("key %s: %q: want one of %q", key, value, values)
	}
	oneOf("client_auth", l.ClientAuth, "none", "cert")
	oneOf("format", l.Format, "pcap", "pcap-ns")
	oneOf("overflow", l.Overflow, "skip", "disconnect", "block")
	oneOf("end", l.End, "wait", "close")
	if l.ClientAuth == "cert" && !l.TLS {
		bad("key client_auth: a plain listener sees no certificate; set tls = true")
	}
	if l.Snaplen < 1 || l.Snaplen > pcap.MaxCaptured {
		bad("key snaplen: %d: want 1 to %d", l.Snaplen, pcap.MaxCaptured)
	}
	if l.MaxConnections < 1 {
		bad("key max_connections: %d: want at least 1", l.MaxConnections)
	}
	if w := l.WriteBuffer; w < 4<<10 || w > 64<<20 {
		bad("key write_buffer: %s: want 4KiB to 64MiB", w)
	}
	return errs
}
