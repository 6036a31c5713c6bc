package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// payload is one that tells its number, of 1400 bytes.
func payload(n int) string { return fmt.Sprintf("%08d", n) + strings.Repeat("x", 1392) }

// payloads are those of packets from number i on.
func payloads(i, packets int) (out []string) {
	for n := range packets {
		out = append(out, payload(i+n))
	}
	return out
}

// flood sends packets in batches of 40, from number from on.
func (a *agent) flood(from, packets int) {
	a.t.Helper()
	for i := from; i < from+packets; i += 40 {
		a.packets(payloads(i, 40)...)
		if i%(40*100) == 0 {
			a.acked(a.next) // stay within the window
		}
	}
	a.acked(a.next)
}

// numbers reads packets up to number last, and returns how many there were
// before it. They have to be in order.
func (a *analyst) numbers(last int) int {
	a.t.Helper()
	for n, before := 0, -1; ; n++ {
		r, err := a.record()
		if err != nil {
			a.t.Fatalf("after packet %d: %v", before, err)
		}
		var number int
		if _, err := fmt.Sscanf(r.data[:8], "%08d", &number); err != nil || r.data != payload(number) {
			a.t.Fatalf("after packet %d: %.20q", before, r.data)
		}
		if number <= before {
			a.t.Fatalf("packet %d comes after %d", number, before)
		}
		if before = number; number == last {
			return n
		}
	}
}

// balanced says whether the ledger of a listener closes with nothing pending.
func (l ListenerStatus) balanced() bool {
	skipped := uint64(0)
	for _, n := range l.Skipped {
		skipped += n
	}
	return l.Pending == 0 && l.Offered == l.Sent+skipped
}

func TestAStalledReaderSkipsAndDisturbsNobody(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", encrypted), func(t *testing.T) {
			w := newWorld(t, nil, plain("p", func(l *ListenerConfig) { l.TLS = encrypted }))
			a := w.agent("s/c")
			stalled, reader := w.either("p", encrypted), w.either("p", encrypted)
			stalled.header()
			reader.header()
			w.eventually("both", func() bool { return w.listenerStatus("p").Connections == 2 })
			const packets = 20000 // 28 MB through a ring of 4 MiB
			counted := make(chan int)
			go func() { counted <- reader.numbers(packets - 1) }()
			for i := 0; i < packets; i += 400 {
				a.flood(i, 400)
				w.eventually("the reader to be near", func() bool { return w.reader(reader).Pending < 1000 })
			}
			if got := <-counted; got != packets-1 {
				t.Errorf("the healthy reader got %d packets of %d", got+1, packets)
			}
			w.eventually("the stalled one", func() bool { return w.reader(stalled).State == "stalled" })
			if s := w.streamStatus("s/c"); s.Ring.Memory > s.Ring.Limit {
				t.Errorf("the ring takes %d bytes, limit %d", s.Ring.Memory, s.Ring.Limit)
			}
			counting := make(chan int)
			go func() { counting <- stalled.numbers(packets) }()
			w.eventually("it to catch up", func() bool { return w.reader(stalled).Pending == 0 })
			a.packets(payload(packets))
			got := <-counting
			reader.numbers(packets)
			w.eventually("the ledger", func() bool { return w.listenerStatus("p").balanced() })
			l := w.listenerStatus("p")
			if int(l.Skipped["overrun"]) != packets-got || l.Offered != 2*(packets+1) {
				t.Errorf("got %d, skipped %v, offered %d", got, l.Skipped, l.Offered)
			}
		})
	}
}

// reader is what the relay says of an analyst.
func (w *world) reader(a *analyst) ConnectionStatus {
	for _, l := range w.Listeners() {
		for _, d := range l.Doors {
			for _, c := range d.Analysts {
				if c.Remote == a.conn.LocalAddr().String() {
					return c
				}
			}
		}
	}
	return ConnectionStatus{}
}

// either connects to a plain or a TLS listener, with small buffers.
func (w *world) either(listener string, encrypted bool) *analyst {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.address(listener))
	if err != nil {
		w.t.Fatal(err)
	}
	conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	if encrypted {
		conn = tls.Client(conn, &tls.Config{RootCAs: w.ca.Pool, ServerName: "127.0.0.1"})
	}
	return newAnalyst(w.t, conn)
}

func TestAStalledReaderIsDisconnected(t *testing.T) {
	w := newWorld(t, nil, plain("p", func(l *ListenerConfig) { l.Overflow = "disconnect" }))
	a := w.agent("s/c")
	stalled := w.either("p", false)
	stalled.header()
	a.flood(0, 8000)
	w.eventually("the eviction", func() bool { return w.listenerStatus("p").Connections == 0 })
	_, err := io.Copy(io.Discard, stalled.conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the evicted reader sees %v, want a reset", err)
	}
	w.eventually("the ledger", func() bool { l := w.listenerStatus("p"); return l.balanced() && l.Evicted == 1 })
}

func TestABlockingReaderHoldsTheStream(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Intake.Window = 1 << 20 }, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
	a := w.agent("s/c")
	slow := w.either("p", false)
	slow.header()
	const packets = 12000 // 17 MB: ring, window and buffers together hold less
	sent := make(chan bool)
	go func() {
		defer close(sent)
		for i := 0; i < packets; i += 40 {
			batch := payloads(i, 40)
			if int(a.next)*1416 > 900<<10 {
				a.acked(a.next - 600) // an agent that keeps to its window
			}
			a.packets(batch...)
		}
		a.acked(packets)
	}()
	w.eventually("the stream to be held", func() bool {
		s := w.streamStatus("s/c")
		return s.Ring.Memory > s.Ring.Limit && w.reader(slow).State == "stalled"
	})
	held := w.streamStatus("s/c")
	if held.Ring.Memory > held.Ring.Limit+2<<20 {
		t.Errorf("the ring takes %d bytes, limit %d and window %d", held.Ring.Memory, held.Ring.Limit, w.cfg.Intake.Window)
	}
	if got := slow.numbers(packets - 1); got != packets-1 {
		t.Errorf("the reader got %d packets of %d", got+1, packets)
	}
	<-sent
	w.eventually("the ring to shrink", func() bool { s := w.streamStatus("s/c"); return s.Ring.Memory <= s.Ring.Limit })
}

func TestABlockerThatReadsNothingIsExpelled(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Intake.Window = 1 << 20 }, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
	w.mu.Lock()
	w.blocking = 200 * time.Millisecond
	w.mu.Unlock()
	a := w.agent("s/c")
	w.either("p", false).header()
	a.flood(0, 10000)
	w.eventually("the eviction", func() bool { l := w.listenerStatus("p"); return l.Evicted == 1 && l.balanced() })
	if !strings.Contains(w.logs.String(), "blocks a stream") {
		t.Error("nothing in the log")
	}
}

func TestHalfClosedAnalystsGetEverything(t *testing.T) {
	w := newWorld(t, nil, plain("p"), plain("t", func(l *ListenerConfig) { l.TLS = true }))
	a := w.agent("s/c")
	p, s := w.either("p", false), w.either("t", true)
	if err := p.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.header() // after the handshake
	if err := s.conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.header()
	for i := range 5 {
		time.Sleep(5 * time.Millisecond)
		a.packets(payload(i))
		p.numbers(i)
		s.numbers(i)
	}
	go w.stop()
	p.ends()
	s.ends()
}

func TestJunkFromAnalystsTruncatesNothing(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", encrypted), func(t *testing.T) {
			w := newWorld(t, nil, plain("p", func(l *ListenerConfig) { l.TLS = encrypted }))
			a := w.agent("s/c")
			r := w.either("p", encrypted)
			r.header()
			go io.WriteString(r.conn, strings.Repeat("GET / HTTP/1.1\r\n", 20000))
			a.flood(0, 2000)
			go w.stop()
			if got := r.numbers(1999); got != 1999 {
				t.Errorf("got %d packets of 2000", got+1)
			}
			r.ends()
		})
	}
}

func TestAnAnalystThatIsGoneIsNoticed(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	w.agent("s/c")
	r := w.analyst(w.address("p"))
	r.header()
	r.conn.(*net.TCPConn).SetLinger(0)
	r.conn.Close()
	w.eventually("the relay to notice", func() bool { return w.listenerStatus("p").Connections == 0 })

	r = w.analyst(w.address("p")) // ends its side first
	r.header()
	r.conn.(*net.TCPConn).CloseWrite()
	time.Sleep(20 * time.Millisecond)
	r.conn.(*net.TCPConn).SetLinger(0)
	r.conn.Close()
	w.eventually("the relay to notice", func() bool { return w.listenerStatus("p").Connections == 0 })
}

func TestStartAndEnd(t *testing.T) {
	w := newWorld(t, nil,
		plain("live", func(l *ListenerConfig) { l.End = "close" }),
		plain("oldest", func(l *ListenerConfig) { l.Start, l.End = "oldest", "close" }),
		plain("wait"))
	a := w.agent("s/c")
	a.packets("one", "two")
	a.acked(2)
	live, oldest, wait := w.analyst(w.address("live")), w.analyst(w.address("oldest")), w.analyst(w.address("wait"))
	for _, r := range []*analyst{live, oldest, wait} {
		r.header()
	}
	oldest.want("one", "two")
	a.packets("three")
	live.want("three")
	oldest.want("three")
	wait.want("three")
	a.end(false)
	a.hello("s/c", func(h *wire.Hello) { h.Epoch = epochOf(2) })
	a.next = 0
	a.packets("four")
	a.end(true)
	for _, r := range []*analyst{live, oldest} {
		r.want("four")
		r.ends()
	}
	w.eventually("the end", func() bool { return w.streamStatus("s/c").State == "live" }) // its agent is still here
	a.conn.Close()
	w.eventually("the end", func() bool { return w.streamStatus("s/c").State == "ended" })

	late := w.analyst(w.address("oldest"))
	late.header()
	late.want("one", "two", "three", "four")
	late.ends()

	again := w.agent("s/c", func(h *wire.Hello) { h.Epoch = epochOf(3) })
	again.packets("five")
	wait.want("four", "five")
	fresh := w.analyst(w.address("live"))
	fresh.header()
	w.eventually("it to be there", func() bool { return w.listenerStatus("live").Connections == 1 })
	again.packets("six")
	fresh.want("six")
}

func TestMergeKeepsTheOrderOfArrival(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	r := w.analyst(w.address("p"))
	agents := []*agent{w.agent("a/x"), w.agent("b/x"), w.agent("c/x")}
	r.header()
	for i := range 300 {
		a := agents[i*7%3]
		name, next := a.name, uint64(a.next)+1
		a.packets(payload(i))
		w.eventually("it to arrive", func() bool { return w.streamStatus(name).Position == next })
	}
	if got := r.numbers(299); got != 299 {
		t.Errorf("got %d of 300", got+1)
	}
}

func TestOtherLinkTypesAreLeftOut(t *testing.T) {
	sll := func(h *wire.Hello) { h.LinkType = pcap.LinkSLL2 }
	w := newWorld(t, nil, plain("p", func(l *ListenerConfig) { l.End = "close" }), plain("b", func(l *ListenerConfig) { l.Streams = []string{"b/*"} }))
	ethernet := w.agent("a/x")
	r := w.analyst(w.address("p"))
	r.header()
	cooked := w.agent("b/x", sll)
	cooked.packets("not", "here")
	cooked.acked(2)
	other := w.analyst(w.address("b"))
	if _, link := other.header(); link != pcap.LinkSLL2 {
		t.Errorf("link type %d", link)
	}
	ethernet.packets("here")
	r.want("here")
	w.eventually("the count", func() bool {
		l := w.listenerStatus("p")
		return l.Skipped["link_type"] == 2 && l.balanced() && len(l.LeftOut) == 1 && l.LeftOut[0] == "b/x"
	})
	if !strings.Contains(w.logs.String(), "left out") {
		t.Error("nothing in the log")
	}

	// The stream itself gets another link type: its old ring has ended.
	ethernet.end(false)
	if ack := ethernet.hello("a/x", sll, func(h *wire.Hello) { h.Epoch = epochOf(2) }); ack.Position != 0 {
		t.Errorf("position %d", ack.Position)
	}
	r.ends()
	r = w.analyst(w.address("p"))
	if _, link := r.header(); link != pcap.LinkSLL2 {
		t.Errorf("link type %d", link)
	}
	w.eventually("it to be there", func() bool { return w.listenerStatus("p").Connections == 1 })
	ethernet.next = 0
	ethernet.packets("both")
	ethernet.acked(1)
	cooked.packets("now")
	r.want("both", "now")
	w.eventually("the ledger", func() bool { return w.listenerStatus("p").balanced() })
}

// A stream that changes its link type again and again leaves a ring each time.
// Who reads drops them; who does not goes before they are too many.
func TestAStalledReaderKeepsNoEndOfOldRings(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	a := w.agent("s/c")
	stalled := w.either("p", false)
	stalled.header()
	a.flood(0, 8000)
	w.eventually("the reader to stall", func() bool { return w.reader(stalled).State == "stalled" })
	reader := w.either("p", false)
	reader.header()
	w.eventually("both", func() bool { return w.listenerStatus("p").Connections == 2 })

	cursors := func(a *analyst) (n int) {
		for s := range w.tallies["p"].subscribers {
			if s.remote == a.conn.LocalAddr().String() {
				s.mu.Lock()
				n = len(s.cursors) + len(s.arriving)
				s.mu.Unlock()
			}
		}
		return n
	}
	most := 0
	for i := range 2*maxOutdated + 10 {
		w.mu.Lock()
		w.setRing(w.streams[a.streamName()], []pcap.LinkType{pcap.LinkSLL2, pcap.LinkEthernet}[i%2]) // as a hello does
		most = max(most, cursors(stalled))
		w.mu.Unlock()
		w.eventually("the reader to drop what it has read", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return cursors(reader) <= 1
		})
	}
	if most < maxOutdated || most > maxOutdated+2 {
		t.Errorf("the stalled reader had %d cursors", most)
	}
	w.eventually("it to be gone", func() bool { return w.listenerStatus("p").Connections == 1 })
	if !strings.Contains(w.logs.String(), "change their link type") {
		t.Error("nothing in the log")
	}
	a.end(false)
	a.hello("s/c", func(h *wire.Hello) { h.Epoch = epochOf(2) })
	a.next = 0
	a.packets("still here")
	reader.want("still here")
	w.eventually("the ledger", func() bool { return w.listenerStatus("p").balanced() })
}

func TestNineReadersLoseNothingBesideAStalledOne(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Stream.Memory = 16 << 20 }, plain("p"))
	const readers = 9
	for range readers {
		conn := w.analyst(w.address("p")).conn
		go io.Copy(io.Discard, struct{ io.Reader }{conn})
	}
	stalled := w.analyst(w.address("p"))
	w.eventually("all", func() bool { return w.listenerStatus("p").Connections == readers+1 })
	near := func(pending uint64) func() bool {
		return func() bool {
			n := 0
			for _, c := range w.listenerStatus("p").Doors[0].Analysts {
				if c.Pending <= pending {
					n++
				}
			}
			return n >= readers
		}
	}
	s := newSource(600, 64<<10, 1400)                                   // 37 MiB
	s.gate = func() { w.eventually("the nine to be near", near(4000)) } // on a busy machine they may be late
	w.converseFrom(s)
	w.eventually("the nine to be through", near(0))
	for _, c := range w.listenerStatus("p").Doors[0].Analysts {
		if c.Remote != stalled.conn.LocalAddr().String() && (c.Sent != uint64(s.first) || c.Skipped != 0) {
			t.Errorf("%+v", c)
		}
	}
	if c := w.reader(stalled); c.State != "stalled" {
		t.Errorf("%+v", c)
	}
}

func TestManyQuietStreamsAreMerged(t *testing.T) {
	w := newWorld(t, nil, plain("p"), plain("tls", func(l *ListenerConfig) { l.TLS = true }))
	r, s := w.either("p", false), w.either("tls", true)
	var agents []*agent
	for i := range 20 {
		agents = append(agents, w.agent(fmt.Sprintf("s/c%d", i)))
	}
	r.header()
	s.header()
	const rounds = 50
	for range rounds {
		for _, a := range agents {
			a.packets("small")
		}
	}
	agents[0].packets(strings.Repeat("large", 10000))
	for _, a := range []*analyst{r, s} {
		if got := a.read(20*rounds + 1); !slices.Contains(got, strings.Repeat("large", 10000)) {
			t.Error("the large packet is missing")
		}
	}
	w.eventually("the ledger", func() bool {
		return w.listenerStatus("p").balanced() && w.listenerStatus("tls").balanced() && w.listenerStatus("tls").Sent == 20*rounds+1
	})
}

func TestAStreamThatIsGoneDoesNotDecideTheLinkType(t *testing.T) {
	sll := func(h *wire.Hello) { h.LinkType = pcap.LinkSLL2 }
	w := newWorld(t, nil, plain("p"))
	offered := func(want pcap.LinkType) {
		t.Helper()
		if _, link := w.analyst(w.address("p")).header(); link != want {
			t.Errorf("link type %s, want %s", link, want)
		}
	}
	w.agent("s/any", sll).end(true)
	w.agent("s/eth0")
	offered(pcap.LinkSLL2) // it came first, and was here a moment ago
	w.stop()

	w = startWorld(t, w.cfg)
	offered(pcap.LinkSLL2)
	w.agent("s/eth0")
	offered(pcap.LinkEthernet)
	w.stop()

	w = startWorld(t, w.cfg) // the last run has not seen it
	offered(pcap.LinkEthernet)
}
