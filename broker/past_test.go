package broker

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/config"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// small makes rings and histories as small as they may be.
func small(c *Config) {
	c.Stream.Memory, c.Stream.History = leastMemory, leastHistory
}

func TestAReaderThatFallsBehindCatchesUp(t *testing.T) {
	w := newWorld(t, func(c *Config) { keeping(c); c.Stream.Memory = leastMemory },
		plain("skip"), plain("disconnect", func(l *ListenerConfig) { l.Overflow = "disconnect" }),
		plain("block", func(l *ListenerConfig) { l.Overflow = "block" }))
	a := w.agent("s/c")
	var behind []*analyst
	for _, l := range []string{"skip", "disconnect", "block"} {
		r := w.either(l, false)
		r.header()
		behind = append(behind, r)
	}
	const packets = 8000 // 11 MB
	a.flood(0, packets)
	for _, r := range behind {
		r.whole(0, packets-1)
	}
	a.packets(payload(packets))
	for _, r := range behind {
		r.whole(packets, packets)
	}
	for _, l := range []string{"skip", "disconnect", "block"} {
		w.eventually("the ledger of "+l, func() bool { s := w.listenerStatus(l); return s.balanced() && s.Sent == packets+1 })
	}
}

// A reader who takes nothing for long lets go of the files that it has open, and
// goes on later as if nothing had been: within a record, and with whole streams
// waiting for their turn.
func TestAStalledReaderLetsGoOfHistory(t *testing.T) {
	alone := func(l *ListenerConfig) { l.Streams = []string{"s/*"} }
	encrypted := func(l *ListenerConfig) { l.TLS = true }
	w := newWorld(t, func(c *Config) { keeping(c); c.Stream.Memory = leastMemory },
		plain("alone", oldest, alone), plain("alone-tls", oldest, alone, encrypted), plain("cut", oldest, alone, func(l *ListenerConfig) { l.Snaplen = 1000 }),
		plain("merged", oldest), plain("merged-tls", oldest, encrypted))
	agents := []*agent{w.agent("s/c"), w.agent("t/c")}
	const packets, turn = 12000, 2000 // 17 MB
	for i := 0; i < packets; i += turn {
		agents[i/turn%2].flood(i, turn)
	}
	readers := make(map[string]*analyst)
	for _, l := range w.cfg.Listeners {
		readers[l.Name] = w.either(l.Name, l.TLS)
		readers[l.Name].header()
	}
	for _, r := range readers {
		w.eventually("all to stall", func() bool { return w.reader(r).State == "stalled" })
	}
	w.eventually("them to let go", func() bool { return w.archive.reading.Load() == 0 })
	for l, r := range readers {
		for i := range packets {
			if i/turn%2 == 1 && !strings.HasPrefix(l, "merged") {
				continue // of the other stream
			}
			got, err := r.record()
			if want := payload(i); err != nil || got.data != want[:len(got.data)] || got.original != 1400 {
				t.Fatalf("%s: packet %d: %.20q, %v", l, i, got.data, err)
			}
		}
		w.eventually("the ledger of "+l, func() bool { return w.listenerStatus(l).balanced() })
		if s := w.listenerStatus(l); s.Sent != s.Offered {
			t.Errorf("%s: sent %d of %d", l, s.Sent, s.Offered)
		}
	}
	w.eventually("all to be through", func() bool { return w.archive.reading.Load() == 0 })
}

// A reader of several streams closes the history of one that is read to its end,
// however long the others go on.
func TestAReaderThatIsThroughWithAHistoryClosesIt(t *testing.T) {
	w := newWorld(t, keeping, plain("o", oldest))
	for i, stream := range []string{"s/c", "t/c"} {
		a := w.agent(stream)
		a.packets(payload(i))
		a.acked(1)
	}
	w = w.again() // without agents: there is nothing in memory
	r := w.either("o", false)
	r.header()
	r.numbers(1)
	w.eventually("all to be closed", func() bool { return w.archive.reading.Load() == 0 })
}

// What is trimmed while a reader takes nothing is gone for it too, and is counted.
func TestAStalledReaderKeepsNothingFromBeingTrimmed(t *testing.T) {
	w := newWorld(t, small, plain("o", oldest))
	a := w.agent("s/c")
	a.flood(0, 4000)
	r := w.either("o", false)
	r.header()
	w.eventually("it to stall", func() bool { return w.reader(r).State == "stalled" })
	w.eventually("it to let go", func() bool { return w.archive.reading.Load() == 0 })
	const packets = 12000 // 17 MB
	a.flood(4000, packets-4000)
	w.eventually("history to be trimmed", func() bool {
		h := w.streamStatus("s/c").History
		return h.Trimmed > 4000 && h.Bytes <= h.Limit
	})
	got := r.numbers(packets - 1)
	w.eventually("the ledger", func() bool { return w.listenerStatus("o").balanced() })
	if l := w.listenerStatus("o"); got == packets-1 || l.Sent != uint64(got)+1 || l.Offered-l.Sent != l.Skipped["overrun"] {
		t.Errorf("got %d of %d, %+v", got+1, packets, l)
	}
}

func TestOnlyWhatHistoryHasNoMoreIsSkipped(t *testing.T) {
	w := newWorld(t, small, plain("skip"), plain("disconnect", func(l *ListenerConfig) { l.Overflow = "disconnect" }))
	a := w.agent("s/c")
	r, late := w.either("skip", false), w.either("disconnect", false)
	r.header()
	late.header()
	const packets = 16000 // 22 MB
	a.flood(0, packets)
	w.eventually("history to be trimmed", func() bool {
		h := w.streamStatus("s/c").History
		return h.Trimmed > 0 && h.Bytes <= h.Limit
	})
	a.packets(payload(packets))
	got := r.numbers(packets)
	w.eventually("the ledger", func() bool { return w.listenerStatus("skip").balanced() })
	if l := w.listenerStatus("skip"); got == packets || int(l.Skipped["overrun"]) != packets-got {
		t.Errorf("got %d of %d, skipped %v", got, packets, l.Skipped)
	}
	go func() { // until it is disconnected
		for _, err := late.record(); err == nil; {
			_, err = late.record()
		}
	}()
	w.eventually("the other one to be disconnected", func() bool { return w.listenerStatus("disconnect").Evicted == 1 })
}

// TestABlockingReaderHoldsTheHistory: for it the history grows no further, and
// nothing that it has not read goes, be it in memory as well or not.
func TestABlockingReaderHoldsTheHistory(t *testing.T) {
	for what, memory := range map[string]config.Size{"behind the ring": leastMemory, "in a ring that holds more": 16 << 20} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, func(c *Config) {
				small(c)
				c.Stream.Memory, c.Intake.Window = memory, 1<<20
			}, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
			a := w.agent("s/c")
			r := w.either("p", false)
			r.header()
			const packets = 16000 // 22 MB
			sent := make(chan bool)
			go func() {
				defer close(sent)
				for i := 0; i < packets; i += 40 {
					batch := payloads(i, 40)
					if i >= 600 {
						a.acked(wire.PacketNumber(i - 600)) // an agent that keeps to its window
					}
					a.packets(batch...)
				}
				a.acked(packets)
			}()
			w.eventually("the stream to be held", func() bool { return w.streamStatus("s/c").History.Blocking })
			r.whole(0, packets-1)
			<-sent
			w.eventually("the history to be trimmed", func() bool {
				h := w.streamStatus("s/c").History
				return !h.Blocking && h.Trimmed > 0 && h.Bytes <= h.Limit
			})
			w.eventually("the ledger", func() bool { l := w.listenerStatus("p"); return l.balanced() && l.Sent == packets })
		})
	}
}

// TestAReaderOfWhatIsOverHoldsNothing: of a stream that has another link type now
// it has all that it will ever get. It fails where it keeps its cursor.
func TestAReaderOfWhatIsOverHoldsNothing(t *testing.T) {
	w := newWorld(t, small, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
	a := w.agent("s/c")
	r := w.either("p", false)
	r.header()
	a.packets("one")
	r.want("one")
	a.end(false)
	a.next = a.hello("s/c", func(h *wire.Hello) { h.Epoch, h.LinkType = epochOf(2), 101 }).Position
	a.flood(0, 8000) // 11 MB
	w.eventually("the history to be trimmed", func() bool {
		h := w.streamStatus("s/c").History
		return !h.Blocking && h.Trimmed > 0 && h.Bytes <= h.Limit
	})
}

// TestNewSessionsAreNoWayAroundABlockingReader: each may send a window, and
// they do not add up. It fails without overdrawn in awaitDisk.
func TestNewSessionsAreNoWayAroundABlockingReader(t *testing.T) {
	w := newWorld(t, func(c *Config) { small(c); c.Intake.Window = 1 << 20 }, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
	first := w.agent("s/c")
	stalled := stalledAnalyst(t, w)
	defer stalled.Close()
	first.conn.Close()
	sensor := make([]*agent, 40)
	for i := range sensor {
		sensor[i] = w.dial("s")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i, a := range sensor {
			a.send(wire.AppendHello(nil, greeting1("s/c", func(h *wire.Hello) { h.Epoch = epochOf(byte(i + 2)) })))
			if h, _, err := a.tryReceive(); err != nil || h.Type != wire.TypeHelloAck {
				return
			}
			for range 16 { // less than the window
				a.offer(strings.Repeat("x", 60000))
			}
			for end := time.Now().Add(200 * time.Millisecond); w.streamStatus("s/c").Position < 16 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	history := func() *HistoryStatus { return w.streamStatus("s/c").History }
	w.eventually("the stream to be held", func() bool { return history().Blocking })
	time.Sleep(500 * time.Millisecond)
	most := int64(leastHistory + 2*w.cfg.Intake.Window + wire.MaxBatchLen + w.cfg.Intake.Window)
	if h := history(); h.Bytes+h.Pending > most {
		t.Errorf("the history takes %d KiB, want %d at most", h.Bytes>>10, most>>10)
	}
	for _, a := range sensor {
		a.conn.Close()
	}
	<-done
}

func TestHistoriesAreMergedInOrderOfArrival(t *testing.T) {
	w := newWorld(t, func(c *Config) { keeping(c); c.Stream.Memory = leastMemory }, plain("p", oldest), plain("cut", oldest, func(l *ListenerConfig) { l.Snaplen = 64 }))
	agents := []*agent{w.agent("a/x"), w.agent("b/x"), w.agent("c/x")}
	const packets = 200 * 40 // 11 MB
	early := w.either("p", false)
	for i := 0; i < packets; i += 40 {
		a := agents[i/40*7%3]
		a.packets(payloads(i, 40)...)
		w.eventually("it to arrive", func() bool { return w.streamStatus(a.name).Position == uint64(a.next) })
	}
	late, cut := w.either("p", false), w.either("cut", false)
	for _, r := range []*analyst{early, late, cut} {
		r.header()
		for i := range packets {
			got, err := r.record()
			if want := payload(i); err != nil || got.data != want[:len(got.data)] || got.original != 1400 {
				t.Fatalf("packet %d: %.20q, %v", i, got.data, err)
			}
		}
	}
	for i := range 3 {
		agents[i].packets("now")
	}
	late.want("now", "now", "now")
}

func TestAReaderBeginsAtATime(t *testing.T) {
	w := newWorld(t, keeping)
	a := w.agent("s/c")
	a.packets("one", "two")
	a.acked(2)
	w.stop()
	cfg := w.cfg
	cfg.Listeners = []ListenerConfig{
		plain("hour", func(l *ListenerConfig) { l.Start = "1h" }),
		plain("time", func(l *ListenerConfig) { l.Start = time.Now().Format(time.RFC3339Nano) }),
		plain("future", func(l *ListenerConfig) { l.Start = "2100-01-01T00:00:00Z" }),
	}
	w = startWorld(t, cfg)
	a = w.agent("s/c")
	a.packets("three")
	a.packets("four")
	a.acked(4)
	hour, now, future := w.analyst(w.address("hour")), w.analyst(w.address("time")), w.analyst(w.address("future"))
	for _, r := range []*analyst{hour, now, future} {
		r.header()
	}
	hour.want("one", "two", "three", "four")
	now.want("three", "four")
	w.eventually("the last one", func() bool { return w.listenerStatus("future").Connections == 1 })
	a.packets("five")
	for _, r := range []*analyst{hour, now, future} {
		r.want("five")
	}
}

func TestOtherLinkTypesInHistoryAreSkipped(t *testing.T) {
	sll := func(h *wire.Hello) { h.LinkType, h.Epoch = pcap.LinkSLL2, epochOf(2) }
	w := newWorld(t, keeping, plain("p", oldest))
	a := w.agent("s/c")
	a.packets("ethernet", "as well")
	a.end(false)
	a.hello("s/c", sll)
	a.next = 0
	a.packets("cooked")
	a.acked(1)
	w = w.again()
	a = w.agent("s/c", sll)
	r := w.analyst(w.address("p"))
	if _, link := r.header(); link != pcap.LinkSLL2 {
		t.Errorf("link type %s", link)
	}
	a.packets("more")
	r.want("cooked", "more")
	w.eventually("the ledger", func() bool {
		l := w.listenerStatus("p")
		return l.balanced() && l.Skipped["link_type"] == 2 && l.Sent == 2
	})
	a.end(false)
	a.hello("s/c", func(h *wire.Hello) { h.Epoch = epochOf(3) })
	a.next = 0
	a.packets("ethernet again")
	a.acked(1)
	r = w.analyst(w.address("p"))
	if _, link := r.header(); link != pcap.LinkEthernet {
		t.Errorf("link type %s", link)
	}
	r.want("ethernet", "as well", "ethernet again")
}

// used is how many bytes the files below a folder have.
func used(dir string) (n int64) {
	filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return nil
	})
	return n
}

func TestAFullDiskHoldsTheSensor(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, nil, plain("p"))
	r := w.analyst(w.address("p"))
	a := w.agent("s/c")
	r.header()
	a.packets("one")
	a.acked(1)
	d.set(func() { d.write = func(int) error { return syscall.ENOSPC } })
	a.packets("two")
	r.want("one", "two")
	w.eventually("the trouble", func() bool { return w.streamStatus("s/c").History.Trouble != "" })
	if !a.quiet(1, 200*time.Millisecond) {
		t.Error("acknowledged what is not on disk")
	}
	a.packets("three")
	r.want("three")
	d.set(func() { d.write = nil })
	a.acked(3)
	w.eventually("the trouble to end", func() bool { return w.streamStatus("s/c").History.Trouble == "" })
	w.stop()
	if w = startWorldOn(t, d, w.cfg); w.agent("s/c").next != 3 {
		t.Error("the relay has forgotten what it acknowledged")
	}
}

// Who waits for a disk that is full holds on to nothing that might be deleted.
func TestAReaderWaitsForAFullDiskWithoutAFile(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, func(c *Config) { c.Stream.Memory = leastMemory }, plain("o", oldest))
	a := w.agent("s/c")
	a.flood(0, 40)
	d.set(func() { d.write = func(int) error { return syscall.ENOSPC } })
	const packets = 4000 // 5.6 MB: more than the ring holds, less than the window
	for i := 40; i < packets; i += 40 {
		a.packets(payloads(i, 40)...)
	}
	w.eventually("all to arrive", func() bool { return w.streamStatus("s/c").Position == packets })
	r := w.either("o", false)
	r.header()
	r.whole(0, 39)
	w.eventually("it to wait", func() bool { s := w.reader(r); return s.Sent == 40 && w.archive.reading.Load() == 0 })
	d.set(func() { d.write = nil })
	a.acked(packets)
	r.whole(40, packets-1)
}

func TestAFullDiskDropsTheOldest(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, func(c *Config) { c.Stream.History, c.Stream.HistoryFull = 16<<20, "drop_oldest" }, plain("p"), plain("o", oldest))
	d.set(func() {
		d.write = func(n int) error {
			if used(w.cfg.Data)+int64(n) > 6<<20 {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	r := w.analyst(w.address("p"))
	a := w.agent("s/c")
	r.header()
	const packets = 8000 // 11 MB
	read := make(chan int)
	go func() { read <- r.numbers(packets - 1) }()
	a.flood(0, packets)
	if got := <-read; got != packets-1 {
		t.Errorf("the live analyst got %d of %d", got+1, packets)
	}
	h := w.streamStatus("s/c").History
	if h.Trimmed == 0 || h.Packets+h.Trimmed != packets {
		t.Errorf("%+v", h)
	}
}

func TestAFailedSyncIsNotTrusted(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, nil, plain("o", oldest))
	a := w.agent("s/c")
	a.packets(sequence(0, 10)...)
	a.acked(10)
	var failed atomic.Int32
	d.set(func() {
		d.sync = func() error {
			if failed.Add(1) == 1 {
				return syscall.EIO
			}
			return nil
		}
	})
	for i := 10; i < 50; i += 10 {
		a.packets(sequence(i, i+10)...)
		a.acked(wire.PacketNumber(i + 10))
	}
	if failed.Load() < 2 {
		t.Error("no fsync has failed")
	}
	w.stop()
	w = startWorldOn(t, d, w.cfg)
	if next := w.agent("s/c").next; next != 50 {
		t.Errorf("position %d, want 50", next)
	}
	r := w.analyst(w.address("o"))
	r.header()
	r.want(sequence(0, 50)...)
}

// What an fsync that fails takes back is written again: for readers at the end
// of the history it comes later, and is not lost.
func TestAFailedSyncSkipsNothing(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, func(c *Config) { c.Stream.Memory = leastMemory }, plain("o", oldest))
	a := w.agent("s/c")
	a.flood(0, 40)
	var syncs atomic.Int32
	d.set(func() {
		d.sync = func() error {
			if syncs.Add(1)%4 == 0 {
				return syscall.EIO
			}
			return nil
		}
	})
	for range 6 {
		r := w.either("o", false)
		r.header()
		go io.Copy(io.Discard, struct{ io.Reader }{r.conn})
	}
	const packets = 30000 // 42 MB
	a.flood(40, packets-40)
	w.eventually("the ledger", func() bool { l := w.listenerStatus("o"); return l.Offered == 6*packets && l.balanced() })
	if l := w.listenerStatus("o"); l.Sent != l.Offered || syncs.Load() < 8 {
		t.Errorf("sent %d of %d, skipped %v, in %d syncs", l.Sent, l.Offered, l.Skipped, syncs.Load())
	}
}

func TestDamageIsSkippedAndCounted(t *testing.T) {
	w := newWorld(t, keeping, plain("o", oldest))
	a := w.agent("s/c")
	for i := 0; i < 90; i += 30 {
		a.packets(sequence(i, i+30)...)
	}
	a.acked(90)
	w.stop()
	files, err := filepath.Glob(filepath.Join(HistoryOf(w.cfg.Data, a.streamName()), "*.pcap"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("packet 45"))]++
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	w = startWorld(t, w.cfg)
	r := w.analyst(w.address("o"))
	r.header()
	r.want(append(sequence(0, 30), sequence(60, 90)...)...)
	w.eventually("the ledger", func() bool {
		l := w.listenerStatus("o")
		return l.balanced() && l.Skipped["history_corrupt"] == 30
	})
	w.eventually("the damage", func() bool { return w.streamStatus("s/c").History.Damaged == 30 })
	if s := w.streamStatus("s/c"); len(s.Lost) != 0 { // they were received
		t.Errorf("lost on the way here: %v", s.Lost)
	}
	w = w.again() // it is known without anybody who reads, and said no more
	if n := w.streamStatus("s/c").History.Damaged; n != 30 || strings.Contains(w.logs.String(), "damage") {
		t.Errorf("after a restart %d are damaged\n%s", n, w.logs.String())
	}
	r = w.analyst(w.address("o"))
	r.header()
	r.want(append(sequence(0, 30), sequence(60, 90)...)...)
	if n := w.streamStatus("s/c").History.Damaged; n != 30 || strings.Contains(w.logs.String(), "damage") {
		t.Errorf("after reading again %d are damaged\n%s", n, w.logs.String())
	}
	if a = w.agent("s/c"); a.next != 90 {
		t.Errorf("position %d, want 90", a.next)
	}
	a.packets("after")
	r.want("after")
}

func TestAForgottenStreamKeepsItsHistory(t *testing.T) {
	w := newWorld(t, func(c *Config) { keeping(c); c.Intake.MaxStreamsPerSensor = 1 }, plain("o", oldest))
	a := w.agent("s/one")
	a.packets("one")
	a.acked(1)
	a.conn.Close()
	w.eventually("the stream to be offline", func() bool { return w.streamStatus("s/one").State == "offline" })
	w.mu.Lock()
	w.forgetting = 0
	w.mu.Unlock()
	b := w.agent("s/two")
	b.conn.Close()
	w.eventually("the other to be offline", func() bool { return w.streamStatus("s/two").State == "offline" })
	if a = w.agent("s/one"); a.next != 1 {
		t.Errorf("position %d, want 1", a.next)
	}
	a.packets("two")
	r := w.analyst(w.address("o"))
	r.header()
	r.want("one", "two")
}

// It fails without the keeper's visits.
func TestAForgottenHistoryGrowsOld(t *testing.T) {
	w := newWorld(t, func(c *Config) { keeping(c); c.Intake.MaxStreamsPerSensor = 1 }, plain("o", oldest))
	w.mu.Lock()
	w.forgetting = 0
	w.mu.Unlock()
	a := w.agent("s/one")
	a.packets("one")
	a.acked(1)
	a.conn.Close()
	w.eventually("the stream to be offline", func() bool { return w.streamStatus("s/one").State == "offline" })
	b := w.agent("s/two")
	b.conn.Close()
	w.eventually("the other to be offline", func() bool { return w.streamStatus("s/two").State == "offline" })
	w.eventually("the history of the first to be closed", func() bool {
		return !w.archive.isOpen(auth.StreamName{Sensor: "s", Capture: "one"})
	})
	config := w.streamConfig()
	config.HistoryAge = 1
	var r round
	w.archive.visit(&r, config, time.Now().Add(time.Hour))
	w.eventually("its packet to be gone", func() bool {
		r.guest.trim(int64(config.History), config.since(time.Now().Add(time.Hour)))
		return r.guest.journal.Oldest() == 1
	})
	w.archive.visit(&r, config, time.Now())
	if a = w.agent("s/one"); a.next != 1 {
		t.Errorf("position %d, want 1", a.next)
	}
	a.packets("two")
	reader := w.analyst(w.address("o"))
	reader.header()
	reader.want("two")
}

// A sensor with ever new names fills its own places on disk, and not the disk.
// It fails without the archive's hasRoom in makeRoom.
func TestForgottenHistoriesAreBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { keeping(c); c.Intake.MaxStreamsPerSensor = 1 })
	w.mu.Lock()
	w.forgetting = 0
	w.mu.Unlock()
	for _, name := range []string{"s/one", "s/two", "s/one"} {
		w.agent(name).conn.Close()
		w.eventually(name+" to be offline", func() bool { return w.streamStatus(name).State == "offline" })
	}
	third := w.dial("s")
	third.send(wire.AppendHello(nil, greeting1("s/three")))
	if r := third.refused(); r.Code != wire.CodeLimit || !strings.Contains(r.Reason, "histories") {
		t.Errorf("refused with %s: %s", r.Code, r.Reason)
	}
	w.agent("other/three")
}

func TestAnAgentThatIgnoresTheWindowIsNotReadFrom(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, func(c *Config) { c.Intake.Window = 1 << 20 })
	a := w.agent("s/c")
	a.packets("one")
	a.acked(1)
	d.freeze()
	defer d.thaw()
	a.next = 1
	sent := make(chan bool)
	go func() {
		defer close(sent)
		for i := range 200 { // 11 MB
			batch := make([]string, 40)
			for j := range batch {
				batch[j] = payload(40*i + j)
			}
			a.packets(batch...)
		}
	}()
	most := int64(2*w.cfg.Intake.Window) + 2*wire.MaxBatchLen
	w.eventually("it to be held", func() bool { return w.streamStatus("s/c").History.Pending > most-2*wire.MaxBatchLen })
	time.Sleep(100 * time.Millisecond)
	if h := w.streamStatus("s/c").History; h.Pending > most {
		t.Errorf("%d bytes are pending", h.Pending)
	}
	d.thaw()
	<-sent
	a.acked(8001)
}

func TestHistoryKeysAreChecked(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*StreamConfig)
	}{
		{"", func(s *StreamConfig) { s.History = 0 }},
		{"", func(s *StreamConfig) { s.History, s.HistoryAge = 2<<30, 0 }},
		{"key stream.history: 1MiB", func(s *StreamConfig) { s.History = 1 << 20 }},
		{"key stream.history_full: \"panic\"", func(s *StreamConfig) { s.HistoryFull = "panic" }},
	} {
		s := DefaultConfig().Stream
		c.change(&s)
		if got := fmt.Sprint(s.checkHistory()); c.want == "" && got != "[]" || !bytes.Contains([]byte(got), []byte(c.want)) {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	if bytes, age := (StreamConfig{History: config.Size(leastHistory), HistoryAge: config.Duration(time.Hour)}).segment(); bytes != 1<<20 || age != 150*time.Second {
		t.Errorf("a segment has %d bytes and %s", bytes, age)
	}
}
