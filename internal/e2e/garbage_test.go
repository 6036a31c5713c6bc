package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"poip/internal/wire"
)

// garbage is what scanners and the confused send, by a seed.
func garbage(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 7))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	kinds := []func() []byte{
		func() []byte { return []byte("GET / HTTP/1.1\r\nHost: \x1b[31mx\r\n\r\n") },
		func() []byte { return []byte("SSH-2.0-OpenSSH_9.2\r\n") },
		func() []byte { return []byte("EHLO example.com\r\nQUIT\r\n") },
		func() []byte { return []byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n") },
		func() []byte { return noise(1 + random.IntN(64<<10)) },
		func() []byte { return make([]byte, 4096) },
		func() []byte { // a TLS record that holds no handshake
			b := noise(512)
			copy(b, "\x16\x03\x01\x01\xfb\x01")
			return b
		},
		func() []byte { // a TLS record longer than any may be
			return append([]byte("\x16\x03\x03\xff\xff"), noise(1000)...)
		},
		func() []byte { // a ClientHello's beginning, then lengths that lie
			return append([]byte("\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03"), noise(53)...)
		},
		func() []byte { // QUIC: an Initial of version 1, undecipherable
			b := noise(1200)
			copy(b, "\xc3\x00\x00\x00\x01\x08")
			return b
		},
		func() []byte { // QUIC: a version that nobody speaks
			b := noise(1200)
			copy(b, "\xc3\xfa\xce\xb0\x0c\x14")
			return b
		},
		func() []byte { return noise(1 + random.IntN(30)) },
	}
	return kinds[seed%uint64(len(kinds))]()
}

// Garbage to every port: each connection is ended, the log stays short and
// harmless, packets flow on, memory does not grow. It fails when
// transport.ServeTLS has no deadline for handshakes (a connection stays), and
// when its complaints are not limited (the log grows).
func TestGarbageToEveryPort(t *testing.T) {
	w := newWorld(t, "branch-7")
	r := w.startRelay(w.relayTOML("[[relay.analyst]]\nname = \"anna\"\nstreams = [\"*/*\"]\n",
		listenerTOML{"plain", "", plainOldest},
		listenerTOML{"secure", "", "tls = true\nclient_auth = \"none\"\n" + plainOldest},
		listenerTOML{"known", "", "tls = true\nclient_auth = \"cert\"\n" + plainOldest}))
	f := w.startFeed(r, "branch-7", "tls")
	f.packet()
	reader := startReader(t, r.address("plain"))
	reader.until(func(n int) bool { return n == 1 })
	before := resident(t, r.process)
	began := time.Now()
	const rounds = 120
	var open []net.Conn
	for seed := range uint64(rounds) {
		for _, name := range []string{"tls", "secure", "known", "admin", "plain"} {
			open = append(open, throw(t, "tcp", r.address(name), garbage(seed)))
		}
		throw(t, "udp", r.address("quic"), garbage(seed)[:min(1200, len(garbage(seed)))]).Close()
		if seed%10 == 0 {
			f.packet()
		}
	}
	for i, conn := range open {
		if i%5 == 4 { // "plain" takes whoever comes, and discards what they say
			conn.Close()
			continue
		}
		conn.SetReadDeadline(time.Now().Add(3 * patience))
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			t.Errorf("connection %d is not ended", i)
		}
		conn.Close()
	}
	inOrder(t, reader.until(func(n int) bool { return n == 1+rounds/10 }))
	// Ten lines at once and one a second, of each of four that log.
	lines := r.Count(func(l logLine) bool { return l["level"] == "WARN" || l["level"] == "ERROR" })
	if most := 4 * (12 + int(time.Since(began).Seconds())); lines > most {
		t.Errorf("%d lines in the log, want %d at most", lines, most)
	}
	harmless(t, r.process)
	if grown := resident(t, r.process) - before; grown > 96<<20 {
		t.Errorf("the relay has grown by %d MiB", grown>>20)
	}
	r.stop()
}

func throw(t *testing.T, network, address string, what []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetWriteDeadline(time.Now().Add(patience))
	conn.Write(what) // it may be refused in the midst
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
	return conn
}

// harmless says that nothing in a log moves a cursor or begins a line.
func harmless(t *testing.T, p *process) {
	t.Helper()
	for _, line := range strings.Split(p.Log(), "\n") {
		if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c == 0x7f || 0x80 <= c && c < 0xa0 }) {
			t.Errorf("the log holds control bytes: %q", line)
		}
		if line != "" && !strings.HasPrefix(line, "{") {
			t.Errorf("a line of the log is not ours: %q", line)
		}
	}
}

// resident is how much memory a program has, in bytes.
func resident(t *testing.T, p *process) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// A sensor that is let in says that 4 GiB follow. Nobody waits for them or makes
// room: it is refused in words, and memory grows by less than 2 MiB, once it has
// been through that some times: streams and buffers stay, and a heap may grow to
// what it will be in any one round, but not in each. What was allocated is looked
// at as well, for memory that nobody has touched is not resident. Take the lengths'
// bounds out of wire.ReadHeader and it fails.
func TestOversizedFramesAreRefused(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML(""))
		round := func() {
			for _, kind := range []byte{0, byte(wire.TypeHello), byte(wire.TypeBatch), byte(wire.TypeGap), byte(wire.TypeRenew), 200} {
				w.oversized(r, scheme, kind)
			}
		}
		for range 3 {
			round()
		}
		const allocated = "go_memstats_alloc_bytes_total"
		grown := math.MaxInt
		for range 4 {
			before, allocatedBefore := resident(t, r.process), r.metric(allocated)
			round()
			grown = min(grown, resident(t, r.process)-before)
			if more := r.metric(allocated) - allocatedBefore; more > 8<<20 {
				t.Errorf("six frames have allocated %.0f KiB", more/1024)
			}
		}
		if grown > 2<<20 {
			t.Errorf("the relay grows by %d KiB each time", grown>>10)
		}
		harmless(t, r.process)
	})
}

// oversized sends a frame of a kind that says it is 4 GiB long.
func (w *world) oversized(r *relay, scheme string, kind byte) {
	w.t.Helper()
	conn := helloAs(w.t, w, "branch-7", r.intake(scheme), fmt.Sprintf("branch-7/kind-%d", kind))
	defer conn.Abort()
	header := binary.LittleEndian.AppendUint32([]byte{kind, 0, 0, 0}, 1<<32-1)
	conn.Write(append(header, bytes.Repeat([]byte{kind}, 4096)...))
	conn.Flush()
	conn.SetReadDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil && os.IsTimeout(err) {
		w.t.Fatalf("kind %d: the connection stays", kind)
	}
	if !bytes.Contains(answer, []byte{byte(wire.TypeRefusal), 0, 0, 0}) {
		w.t.Errorf("kind %d: no refusal, but %q, %v", kind, answer, err)
	}
}
