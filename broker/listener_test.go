package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// ports finds n neighboring ports that are free just now.
func ports(t *testing.T, n int) (first int) {
	t.Helper()
	for range 100 {
		first = 20000 + rand.IntN(12000) // below those that Linux gives to whoever asks for port 0
		if allFree(first, n) {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func allFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

func each(first, n int) ListenerConfig {
	return plain("each", func(l *ListenerConfig) {
		l.Each, l.Listen = true, fmt.Sprintf("127.0.0.1:%d-%d", first, first+n-1)
	})
}

func TestEachStreamHasAPortThatStays(t *testing.T) {
	first := ports(t, 3)
	w := newWorld(t, nil, each(first, 3))
	at := func(w *world, stream string) string { return w.address("each", stream) }
	a, b := w.agent("s/a"), w.agent("s/b")
	addresses := []string{at(w, "s/a"), at(w, "s/b")}
	if addresses[0] == addresses[1] {
		t.Fatalf("both at %s", addresses[0])
	}
	ra, rb := w.analyst(addresses[0]), w.analyst(addresses[1])
	ra.header()
	rb.header()
	w.eventually("both", func() bool { return w.listenerStatus("each").Connections == 2 })
	a.packets("of a")
	b.packets("of b")
	ra.want("of a")
	rb.want("of b")
	w.stop()

	w = startWorld(t, w.cfg)
	early := w.analyst(addresses[1]) // before its agent
	if _, link := early.header(); link != pcap.LinkEthernet {
		t.Errorf("link type %d", link)
	}
	w.agent("s/c")
	b = w.agent("s/b", func(h *wire.Hello) { h.Epoch = epochOf(2) })
	b.packets("again")
	early.want("again")
	if got := []string{at(w, "s/a"), at(w, "s/b")}; !slices.Equal(got, addresses) {
		t.Errorf("ports after a restart: %v, before: %v", got, addresses)
	}

	w.agent("s/d")
	w.eventually("the lack of ports to show", func() bool {
		return slices.Equal(w.listenerStatus("each").Unserved, []string{"s/d"})
	})
	if !strings.Contains(w.logs.String(), "no port is left") {
		t.Error("nothing in the log")
	}
}

func TestAPortThatIsTakenIsTriedAgain(t *testing.T) {
	first := ports(t, 1)
	w := newWorld(t, nil, each(first, 1))
	w.agent("s/a")
	w.stop()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first))
	if err != nil {
		t.Fatal(err)
	}
	w = startWorld(t, w.cfg)
	if d := w.listenerStatus("each").Doors[0]; d.Error == "" {
		t.Errorf("the port was taken: %+v", d)
	}
	ln.Close()
	w.openStuckDoors()
	w.analyst(w.address("each", "s/a")).header()
}

func TestADamagedMemoryIsPutAside(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	w.agent("s/a")
	w.stop()
	path := filepath.Join(w.cfg.Data, stateFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{string(text[:len(text)/2]), strings.Replace(string(text), "s/a", "../a", 1), ""} {
		if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		w = startWorld(t, w.cfg)
		if len(w.Streams()) != 0 {
			t.Errorf("from %q: %+v", damage, w.Streams())
		}
		w.stop()
		if _, err := os.Stat(path + ".damaged"); err != nil {
			t.Error(err)
		}
	}
}

func TestStrangersGetNothing(t *testing.T) {
	w := newWorld(t, nil,
		plain("nobody", func(l *ListenerConfig) { l.Allow = nil }),
		plain("others", func(l *ListenerConfig) { l.Allow = []string{"192.0.2.0/24", "::1/128"} }),
		plain("two", func(l *ListenerConfig) { l.MaxConnections = 2 }),
		plain("tls", func(l *ListenerConfig) { l.TLS = true }))
	w.agent("s/c")
	nothing := func(name string) {
		t.Helper()
		got, err := io.ReadAll(w.analyst(w.address(name)).conn)
		if len(got) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("listener %s: %d bytes, %v", name, len(got), err)
		}
	}
	nothing("nobody")
	nothing("others")
	one, two := w.analyst(w.address("two")), w.analyst(w.address("two"))
	one.header()
	two.header()
	nothing("two")
	one.conn.(*net.TCPConn).SetLinger(0)
	one.conn.Close()
	w.eventually("a place", func() bool { return w.listenerStatus("two").Connections == 1 })
	w.eventually("a place", func() bool {
		r := w.analyst(w.address("two"))
		r.conn.SetReadDeadline(time.Now().Add(patience))
		_, err := r.r.Peek(pcap.FileHeaderLen)
		return err == nil
	})
	garbage := w.analyst(w.address("tls"))
	io.WriteString(garbage.conn, "\x1b[2JGET / HTTP/1.1\r\n\r\n")
	io.Copy(io.Discard, garbage.conn)
	w.eventually("the counts", func() bool {
		return w.listenerStatus("nobody").TurnedAway["denied"] == 1 && w.listenerStatus("others").TurnedAway["denied"] == 1 &&
			w.listenerStatus("two").TurnedAway["limit"] >= 1 && w.listenerStatus("tls").TurnedAway["handshake"] == 1
	})
	if strings.Contains(w.logs.String(), "\x1b") {
		t.Error("a stranger's bytes are in the log as they are")
	}
}

// TestAnalystsAreLetInWhileManyAreSilent: long before the time of those is up
// that keep silent. Without the gate's makeRoom, everybody waits for that.
func TestAnalystsAreLetInWhileManyAreSilent(t *testing.T) {
	w := newWorld(t, nil, plain("tls", func(l *ListenerConfig) { l.TLS = true }))
	w.agent("s/c")
	for range w.cfg.Limits.Pending + 50 {
		w.analyst(w.address("tls"))
	}
	for deadline := time.Now().Add(handshakeTimeout * 8 / 10); ; {
		r := w.either("tls", true)
		r.conn.SetReadDeadline(deadline)
		_, err := r.r.Peek(pcap.FileHeaderLen)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody is let in")
		}
		r.conn.Close()
		time.Sleep(20 * time.Millisecond)
	}
}

// TestReload goes through what may change while an analyst reads.
func TestReload(t *testing.T) {
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	for _, c := range []struct {
		name   string
		change func(*Config)
		stays  bool
		fails  string
	}{
		{name: "nothing", change: func(*Config) {}, stays: true},
		{name: "another listener", change: func(c *Config) { c.Listeners = append(c.Listeners, plain("q")) }, stays: true},
		{name: "limits", change: func(c *Config) { c.Stream.Memory, c.Intake.MaxStreams = 8<<20, 5 }, stays: true},
		{name: "connections", change: func(c *Config) { c.Listeners[0].MaxConnections = 2 }, stays: true},
		{name: "allow, still allowed", change: func(c *Config) { c.Listeners[0].Allow = []string{"127.0.0.1/32"} }, stays: true},
		{name: "allow, no more", change: func(c *Config) { c.Listeners[0].Allow = []string{"192.0.2.0/24"} }},
		{name: "format", change: func(c *Config) { c.Listeners[0].Format = "pcap-ns" }},
		{name: "streams, still offered", change: func(c *Config) { c.Listeners[0].Streams = []string{"s/*"} }, stays: true},
		{name: "streams, no more", change: func(c *Config) { c.Listeners[0].Streams = []string{"t/*"} }},
		{name: "start", change: func(c *Config) { c.Listeners[0].Start = "oldest" }, stays: true},
		{name: "end", change: func(c *Config) { c.Listeners[0].End = "close" }, stays: true},
		{name: "overflow", change: func(c *Config) { c.Listeners[0].Overflow = "disconnect" }, stays: true},
		{name: "write_buffer", change: func(c *Config) { c.Listeners[0].WriteBuffer = 64 << 10 }, stays: true},
		{name: "tls", change: func(c *Config) { c.Listeners[0].TLS = true }},
		{name: "removed", change: func(c *Config) { c.Listeners = nil }},
		{name: "invalid", change: func(c *Config) { c.Listeners[0].Overflow = "drop" }, stays: true, fails: "key overflow"},
		{name: "intake", change: func(c *Config) { c.Intake.TCP = "127.0.0.1:1" }, stays: true, fails: "intake.tcp cannot change"},
		{name: "history key", change: func(c *Config) { c.Stream.HistoryKey = "/etc/poip/other.key" }, stays: true, fails: "stream.history_key cannot change"},
		{name: "no certificate", change: func(c *Config) {
			c.Listeners[0].TLS, c.Listeners[0].ClientAuth = true, "cert"
			c.Analysts = []AnalystConfig{{Name: "alice", Streams: []string{"*/*"}}}
		}, stays: true, fails: "no CA for analysts"},
		{name: "a taken port", change: func(c *Config) {
			c.Listeners = append(c.Listeners, plain("q", func(l *ListenerConfig) { l.Listen = foreign.Addr().String() }))
		}, stays: true, fails: "in use"},
		{name: "our own port", change: func(c *Config) {
			c.Listeners = append(c.Listeners, plain("q", func(l *ListenerConfig) { l.Listen = c.Admin.Listen }))
		}, stays: true, fails: "taken by admin.listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := ports(t, 2)
			w := newWorld(t, func(c *Config) { c.Admin.Listen = fmt.Sprintf("127.0.0.1:%d", first+1) },
				plain("p", func(l *ListenerConfig) { l.Listen = fmt.Sprintf("127.0.0.1:%d", first) }))
			w.opts.AnalystTLS = func(clientAuth string) (*tls.Config, error) {
				if clientAuth == "cert" {
					return nil, errors.New("no CA for analysts")
				}
				return w.options().AnalystTLS(clientAuth)
			}
			a := w.agent("s/c")
			r := w.analyst(w.address("p"))
			r.header()
			a.packets("before")
			r.want("before")

			next := w.cfg
			next.Listeners = slices.Clone(next.Listeners)
			c.change(&next)
			before := w.address("p")
			if err := w.Reload(next); (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
				t.Fatalf("reload: %v, want %q", err, c.fails)
			}
			a.packets("after")
			a.acked(2)
			if !c.stays {
				r.ends()
				return
			}
			r.want("after")
			if w.address("p") != before {
				t.Error("the address has changed")
			}
			w.analyst(before).header()
		})
	}
}

func TestReloadShowsAReaderTheStreamsThatItsListenerGets(t *testing.T) {
	w := newWorld(t, nil, plain("p", func(l *ListenerConfig) { l.Streams = []string{"s/a"} }))
	a, b := w.agent("s/a"), w.agent("s/b")
	r := w.analyst(w.address("p"))
	r.header()
	b.packets("not offered")
	b.acked(1)
	next := w.cfg
	next.Listeners = []ListenerConfig{plain("p")}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	b.packets("of b")
	r.want("of b")
	a.packets("of a")
	r.want("of a")
	if err := w.Reload(w.cfg); err != nil {
		t.Fatal(err)
	}
	r.ends()
	w.eventually("the reason", func() bool { return strings.Contains(w.logs.String(), `reason="a stream is no longer granted"`) })
}

func TestReloadOfStreamsThatHaveAPortEach(t *testing.T) {
	first := ports(t, 3)
	offering := func(streams ...string) ListenerConfig {
		l := each(first, 3)
		l.Streams = streams
		return l
	}
	w := newWorld(t, nil, offering("s/a", "s/b"))
	a := w.agent("s/a")
	w.agent("s/b")
	w.agent("s/c")
	stays, goes := w.analyst(w.address("each", "s/a")), w.analyst(w.address("each", "s/b"))
	stays.header()
	goes.header()
	closed := w.address("each", "s/b")
	next := w.cfg
	next.Listeners = []ListenerConfig{offering("s/a", "s/c")}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	goes.ends()
	a.packets("after")
	stays.want("after")
	w.analyst(w.address("each", "s/c")).header()
	if conn, err := net.Dial("tcp", closed); err == nil {
		conn.Close()
		t.Error("the port of a stream that is not offered any more is open")
	}
}

// TestPortsOfStreamsThatMatchNoMoreAreGivenAway, and those of others stay.
func TestPortsOfStreamsThatMatchNoMoreAreGivenAway(t *testing.T) {
	first := ports(t, 3)
	offering := func(streams ...string) ListenerConfig {
		l := each(first, 3)
		l.Streams = streams
		return l
	}
	w := newWorld(t, nil, offering("a/*", "b/*"))
	for _, stream := range []string{"a/x", "b/x", "b/y"} {
		w.agent(stream)
	}
	stays := w.address("each", "b/y")
	next := w.cfg
	next.Listeners = []ListenerConfig{offering("b/y", "c/*")}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	late := w.agent("c/x")
	w.agent("c/y")
	doors := func(w *world, unserved int, streams ...string) (addresses []string) {
		t.Helper()
		for _, stream := range streams {
			addresses = append(addresses, w.address("each", stream))
		}
		if s := w.listenerStatus("each"); len(s.Doors) != 3 || len(s.Unserved) != unserved || w.address("each", "b/y") != stays {
			t.Errorf("doors %v, unserved %v; b/y was at %s", s.Doors, s.Unserved, stays)
		}
		return addresses
	}
	doors(w, 0, "b/y", "c/x", "c/y")
	w.agent("c/z") // all that have a port match
	doors(w, 1, "b/y", "c/x", "c/y")

	late.conn.Close()
	w.eventually("it to be offline", func() bool { return w.streamStatus("c/x").State == "offline" })
	w.mu.Lock()
	w.forget(w.streams[late.streamName()])
	w.mu.Unlock()
	if !w.openStuckDoors() || w.openStuckDoors() {
		t.Error("a stream that waits for a port is not given the free one, once")
	}
	before := doors(w, 0, "b/y", "c/y", "c/z")
	w.stop()
	if after := doors(startWorld(t, next), 0, "b/y", "c/y", "c/z"); !slices.Equal(before, after) {
		t.Errorf("ports were %v, and are %v after a restart", before, after)
	}
}

func TestReloadGivesAPortToAnotherListener(t *testing.T) {
	first := ports(t, 1)
	at := func(l *ListenerConfig) { l.Listen = fmt.Sprintf("127.0.0.1:%d", first) }
	w := newWorld(t, nil, plain("p", at))
	w.agent("s/c")
	old := w.analyst(w.address("p"))
	old.header()
	next := w.cfg
	next.Listeners = []ListenerConfig{plain("q", at, func(l *ListenerConfig) { l.Format = "pcap-ns" })}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	old.ends()
	w.eventually("the reason", func() bool {
		return strings.Contains(w.logs.String(), `msg="analyst has gone" listener=p`) && !strings.Contains(w.logs.String(), "reason=gone")
	})
	fresh := w.analyst(w.address("q"))
	if fresh.header(); !fresh.nano {
		t.Error("the port still serves the old listener")
	}
}

func TestManyComeAndGo(t *testing.T) {
	w := newWorld(t, nil, plain("p"), plain("tls", func(l *ListenerConfig) { l.TLS = true }))
	a := w.agent("s/c")
	w.analyst(w.address("p")).header()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	stop := make(chan struct{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := 0; ; i += 40 {
			select {
			case <-stop:
				return
			default:
				a.flood(i, 40)
			}
		}
	}()
	addresses := []string{w.address("p"), w.address("tls")}
	for i := range 1000 {
		conn, err := net.Dial("tcp", addresses[i%10/9])
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		if i%2 == 0 {
			conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			io.CopyN(io.Discard, conn, 100)
		}
		conn.Close()
	}
	w.eventually("them to be gone", func() bool {
		return w.listenerStatus("p").Connections == 1 && w.listenerStatus("tls").Connections == 0 &&
			runtime.NumGoroutine() <= goroutines+10 && openFiles(t) <= files+10
	})
	close(stop)
	<-sent
	w.eventually("the ledger", func() bool {
		l := w.listenerStatus("p")
		return l.Offered-l.Pending == l.Sent+l.Skipped["overrun"]+l.Skipped["disconnect"]
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
