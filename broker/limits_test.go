package broker

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"poip/internal/config"
	"poip/internal/wire"
)

// TestCheckAccess: what is wrong with who may come in is said with its key and
// what to do.
func TestCheckAccess(t *testing.T) {
	valid := func() Config {
		c := DefaultConfig()
		c.Name, c.Data = "relay.example", "/nowhere"
		c.Analysts = []AnalystConfig{{Name: "alice", Streams: []string{"*/*"}, Admin: "operator"}, {Name: "bob", Streams: []string{"b/*"}}}
		c.Listeners = []ListenerConfig{
			{Name: "tls", Listen: ":57013", Streams: []string{"*/*"}, TLS: true, ClientAuth: "cert", Allow: []string{"0.0.0.0/0"}},
			{Name: "local", Listen: "127.0.0.1:57012", Streams: []string{"*/*"}},
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
		// What opened to fewer must not open to all when a line is lost.
		{"key client_auth is missing", func(c *Config) { c.Listeners[0].ClientAuth = "" }},
		{"key client_auth is missing", func(c *Config) { c.Listeners[0].ClientAuth, c.Analysts = "", nil }},
		{"key client_auth is missing", func(c *Config) { c.Listeners[0].ClientAuth, c.Listeners[0].Listen = "", "127.0.0.1:57013" }},
		{"no [[relay.analyst]] says who", func(c *Config) { c.Analysts = nil }},
		{"sees no certificate", func(c *Config) { c.Listeners[0].TLS = false }},
		{"asks nobody who he is", func(c *Config) { c.Admin.Listen, c.Admin.TLS = ":57080", true }},
		{"asks nobody who he is", func(c *Config) { c.Admin.Listen, c.Admin.TLS, c.Admin.ClientAuth = "192.0.2.1:57080", true, "" }},
		{"not encrypted: set tls = true", func(c *Config) { c.Admin.Listen, c.Admin.Passwords = "0.0.0.0:57080", "passwords" }},
		{"without tls there is no certificate", func(c *Config) { c.Admin.Listen, c.Admin.ClientAuth = "0.0.0.0:57080", "cert" }},
		{"no [[relay.analyst]] has admin", func(c *Config) {
			c.Admin.Listen, c.Admin.TLS, c.Admin.ClientAuth, c.Analysts[0].Admin = ":57080", true, "cert", ""
		}},
		{"says already who somebody is", func(c *Config) { c.Admin.TLS, c.Admin.ClientAuth, c.Admin.Passwords = true, "cert", "passwords" }},
		{"key admin.client_auth: \"maybe\"", func(c *Config) { c.Admin.ClientAuth = "maybe" }},
		{"an absolute path", func(c *Config) { c.Admin.Listen = "unix:admin.sock" }},
		{"stays on this machine", func(c *Config) { c.Admin.Listen, c.Admin.TLS = "unix:/run/admin.sock", true }},
		{"is a range of ports", func(c *Config) { c.Admin.Listen = "127.0.0.1:1-2" }},
		{"key admin.hosts", func(c *Config) { c.Admin.Hosts = []string{"https://relay.example"} }},
		{"analyst 1 \"Alice\": key name", func(c *Config) { c.Analysts[0].Name = "Alice" }},
		{"is taken; write one", func(c *Config) { c.Analysts[1].Name = "alice" }},
		{"analyst 2 \"bob\": key streams is missing", func(c *Config) { c.Analysts[1].Streams = nil }},
		{"key streams: pattern", func(c *Config) { c.Analysts[1].Streams = []string{"b"} }},
		{"key max_connections", func(c *Config) { c.Analysts[1].MaxConnections = -1 }},
		{"key admin: \"root\"", func(c *Config) { c.Analysts[1].Admin = "root" }},
		{"key deny", func(c *Config) { c.Listeners[0].Deny = []string{"192.0.2.1"} }},
		{"limits: pending", func(c *Config) { c.Limits.Pending = 0 }},
		{"limits: pending", func(c *Config) { c.Limits.PendingPerAddress = c.Limits.Pending + 1 }},
		{"audit: want size", func(c *Config) { c.Audit.Size = 1 }},
		{"keep = 1 to 1000", func(c *Config) { c.Audit.Keep = 0 }},
		{"key intake.max_rate", func(c *Config) { c.Intake.MaxRate = 1 }},
	} {
		cfg := valid()
		c.change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if b, err := New(cfg, Options{}); err == nil {
			b.shut()
			t.Errorf("a relay with %s starts", c.want)
		}
	}
}

func TestAccessWarnings(t *testing.T) {
	c := DefaultConfig()
	c.Name, c.Data, c.Audit.File, c.Admin.Passwords = "relay.example", "/nowhere", "", "passwords"
	c.Analysts = []AnalystConfig{{Name: "bob", Streams: []string{"b/*"}}}
	c.Listeners = []ListenerConfig{
		{Name: "a", Listen: ":57013", Streams: []string{"a/*"}, TLS: true, ClientAuth: "cert"},
		{Name: "local", Listen: "127.0.0.1:57012", Streams: []string{"*/*"}},
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	warnings := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{
		"nobody records who reads what", "passwords pass loopback unencrypted",
		`listener "a": no analyst is granted any of its streams`, `listener "local": client_auth is none`,
	} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning of %q in %q", want, warnings)
		}
	}
}

func TestCheckFiles(t *testing.T) {
	c := DefaultConfig()
	c.Data = t.TempDir()
	c.Admin.Passwords = "passwords"
	if err := c.CheckFiles(); err == nil || !strings.Contains(err.Error(), "key admin.passwords") {
		t.Errorf("a file that is missing: %v", err)
	}
	path := filepath.Join(c.Data, "passwords")
	for text, want := range map[string]string{"": "no user in it", "vera:viewer:clear": "line 1", passwordLine("vera", "viewer", "secret"): ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := c.CheckFiles()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestChangesAreNamed: the keys, and no values.
func TestChangesAreNamed(t *testing.T) {
	before := DefaultConfig()
	before.Name = "relay"
	before.Listeners = []ListenerConfig{{Name: "a", Allow: []string{"10.0.0.0/8"}}, {Name: "b"}}
	before.Analysts = []AnalystConfig{{Name: "alice", Streams: []string{"*/*"}}}
	after := before
	after.Stream.Memory = 8 << 20
	after.Admin.Passwords = "elsewhere"
	after.Listeners = []ListenerConfig{{Name: "c"}, {Name: "a", Allow: []string{"11.0.0.0/8"}, TLS: true}}
	after.Analysts = []AnalystConfig{{Name: "alice", Streams: []string{"a/*"}}}
	want := []string{"admin.passwords", "analyst.alice.streams", "listener.a.allow", "listener.a.tls", "listener.b", "listener.c", "stream.memory"}
	if got := changes(before, after); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := changes(after, after); len(got) > 0 {
		t.Errorf("nothing has changed, and %q is named", got)
	}
}

// exhausted fails to accept for a while, as when descriptors run out.
type exhausted struct {
	net.Listener
	out   atomic.Bool
	tries atomic.Int32
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.out.Load() {
		e.tries.Add(1)
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	conn, err := e.Listener.Accept()
	if err == nil && e.out.Load() {
		conn.Close()
		return e.Accept()
	}
	return conn, err
}

// TestDescriptorsRunOut: accepts pause and recover, and who is there notices
// nothing. Without the pause in accept it would be tried millions of times.
func TestDescriptorsRunOut(t *testing.T) {
	var socket *exhausted
	w := startWorld(t, testConfig(t, nil, plain("p")), func(o *Options) {
		o.Listen = func(network, address string) (net.Listener, error) {
			ln, err := net.Listen(network, address)
			if err != nil {
				return nil, err
			}
			socket = &exhausted{Listener: ln} // the last one is the listener's
			return socket, nil
		}
	})
	a := w.agent("s/c")
	r := w.analyst(w.address("p"))
	r.header()
	begin := time.Now()
	socket.out.Store(true)
	w.analyst(w.address("p")) // wakes the accept that waits
	w.eventually("accepts that fail", func() bool { return socket.tries.Load() > 3 })
	for range 100 {
		a.packets("while descriptors are out")
		r.want("while descriptors are out")
	}
	took := time.Since(begin)
	if tries := socket.tries.Load(); float64(tries) > 20+took.Seconds()*2 {
		t.Errorf("%d accepts failed in %s", tries, took)
	}
	socket.out.Store(false)
	w.analyst(w.address("p")).header()
	if !strings.Contains(w.logs.String(), "too many open files") {
		t.Error("nothing in the log")
	}
}

// TestRate: over any stretch of time a sensor gets its rate and one second's
// worth beside, and not less.
func TestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1 << 20
		r := new(rate)
		now := time.Unix(1e9, 0)
		r.set(limit, now)
		begin, sent := now, 0
		for range rapid.IntRange(1, 200).Draw(t, "batches") {
			n := rapid.IntRange(1, 1<<20).Draw(t, "bytes")
			wait := r.take(n, now)
			sent += n
			if wait < 0 {
				t.Fatalf("wait %s", wait)
			}
			now = now.Add(wait)
			if most := limit + now.Sub(begin).Seconds()*limit; float64(sent) > most+1 {
				t.Fatalf("%d bytes after %s", sent, now.Sub(begin))
			}
			if least := float64(sent-2*limit) / limit; now.Sub(begin).Seconds() > least+2.001 {
				t.Fatalf("%s for %d bytes", now.Sub(begin), sent)
			}
		}
	})
}

// TestRateIsSharedFairly: streams of one sensor get the same of it.
func TestRateIsSharedFairly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, batch = 1 << 20, 100 << 10
		r := new(rate)
		r.set(limit, time.Now())
		var sent [4]atomic.Int64
		end := time.Now().Add(time.Minute)
		for i := range sent {
			go func() {
				for time.Now().Before(end) {
					time.Sleep(r.take(batch, time.Now()))
					sent[i].Add(batch)
				}
			}()
		}
		time.Sleep(2 * time.Minute)
		var all int64
		for i := range sent {
			n := sent[i].Load()
			all += n
			if share := float64(n) / (60 * limit / 4); share < 0.8 || share > 1.2 {
				t.Errorf("stream %d has %.2f of its share", i, share)
			}
		}
		if all > 63*limit {
			t.Errorf("%d bytes in a minute", all)
		}
	})
}

// TestASensorIsHeldBack: what it sends beyond its rate waits, and arrives; a
// reload changes the rate; others are not held back.
func TestASensorIsHeldBack(t *testing.T) {
	const limit = 256 << 10
	w := newWorld(t, func(c *Config) { c.Intake.MaxRate = limit }, plain("p"))
	a := w.agent("s/c")
	go io.Copy(io.Discard, a.r)
	const batches, size = 30, 60000 // seven seconds' worth
	begin := time.Now()
	go func() {
		payload := strings.Repeat("x", size)
		for range batches {
			a.offer(payload)
		}
	}()
	w.eventually("some to arrive", func() bool { return w.streamStatus("s/c").Received > 6 })
	if got, most := w.streamStatus("s/c").Bytes, limit*(2+time.Since(begin).Seconds()); float64(got) > most {
		t.Errorf("%d bytes have arrived, at most %.0f should", got, most)
	}
	next := w.cfg
	next.Intake.MaxRate = config.Size(0)
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	w.eventually("all to arrive", func() bool { return w.streamStatus("s/c").Received == batches })
}

// A sensor may be refused as often as it likes, and writes no line for each. It
// fails where a session logs what it is refused without session.complain.
func TestASensorFillsNoLog(t *testing.T) {
	w := newWorld(t, nil)
	begin := time.Now()
	for range 40 {
		a := w.dial("branch-7")
		a.send(wire.AppendGap(nil, wire.Gap{}))
		a.refused()
	}
	w.agent("branch-8/eth0").packets("another sensor has lines of its own")
	stranger := w.dial("branch-8")
	stranger.send(wire.AppendGap(nil, wire.Gap{}))
	stranger.refused()
	refused := func(sensor string) (n int) {
		for line := range strings.Lines(w.logs.String()) {
			if strings.Contains(line, "refused an agent") && strings.Contains(line, "sensor="+sensor) {
				n++
			}
		}
		return n
	}
	w.eventually("the other is heard", func() bool { return refused("branch-8") == 1 })
	if n := refused("branch-7"); n == 0 || n > 11+int(time.Since(begin).Seconds()) { // ten at once, then one a second
		t.Errorf("%d lines about 40 refusals", n)
	}
}
