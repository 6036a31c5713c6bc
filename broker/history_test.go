package broker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"poip/internal/config"
	"poip/internal/journal"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// oldest is a listener that begins with the oldest packet.
func oldest(l *ListenerConfig) { l.Start = "oldest" }

// quiet says whether the agent hears of no number beyond next for a while.
func (a *agent) quiet(next wire.PacketNumber, while time.Duration) bool {
	a.t.Helper()
	defer a.conn.SetReadDeadline(time.Time{})
	for deadline := time.Now().Add(while); ; {
		var head [wire.FrameHeaderLen]byte
		a.conn.SetReadDeadline(deadline)
		h, err := wire.ReadHeader(a.r, &head)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		}
		payload := make([]byte, h.Length)
		if _, err := a.r.Read(payload); err != nil {
			a.t.Fatal(err)
		}
		ack, err := wire.ParseAck(payload)
		if err != nil {
			a.t.Fatal(err)
		}
		if ack.Next > next || ack.Ended {
			return false
		}
	}
}

func TestOnlyWhatIsOnDiskIsAcknowledged(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, nil, plain("p"))
	r := w.analyst(w.address("p"))
	a := w.agent("s/c")
	r.header()
	a.packets("one", "two")
	a.acked(2)
	d.freeze()
	defer d.thaw()
	a.packets("three")
	a.gap(5, wire.CauseKernelDrop)
	a.packets("four")
	r.want("one", "two", "three", "four") // analysts do not wait for the disk
	if !a.quiet(2, 300*time.Millisecond) {
		t.Error("acknowledged what is not on disk")
	}
	if s := w.streamStatus("s/c"); s.Position != 9 || s.History.Pending == 0 {
		t.Errorf("position %d, history %+v", s.Position, s.History)
	}
	again := w.agent("s/c") // it waits in vain, and is told to send it again
	if again.next != 2 {
		t.Errorf("an agent that returns is told to go on at %d, on disk are 2", again.next)
	}
	again.packets("three")
	again.gap(5, wire.CauseKernelDrop)
	again.packets("four", "five")
	if got := again.refused(); got.Code != wire.CodeProtocol { // it straddles
		t.Errorf("refused with %v", got)
	}
	again = w.agent("s/c")
	again.packets("three")
	again.gap(5, wire.CauseKernelDrop)
	again.packets("four")
	again.packets("five")
	r.want("five")
	again.send(wire.AppendEnd(nil, wire.End{Next: again.next}))
	if !again.quiet(2, 300*time.Millisecond) {
		t.Error("acknowledged what is not on disk")
	}
	d.thaw()
	for !again.last.Ended {
		again.ack()
	}
	if again.last.Next != 10 {
		t.Errorf("acknowledged %d of 10", again.last.Next)
	}
	if s := w.streamStatus("s/c"); s.Received != 5 || s.Lost["kernel_drop"] != 5 {
		t.Errorf("%+v", s)
	}
}

func TestARelayThatReturnsKnowsItsPositions(t *testing.T) {
	w := newWorld(t, keeping, plain("p", oldest, func(l *ListenerConfig) { l.End = "close" }))
	epoch := func(b byte) func(*wire.Hello) { return func(h *wire.Hello) { h.Epoch = epochOf(b) } }
	a := w.agent("s/c", epoch(1))
	a.packets(sequence(0, 3)...)
	a.gap(4, wire.CauseKernelDrop)
	a.acked(7)

	w = w.again()
	if a = w.agent("s/c", epoch(1)); a.next != 7 {
		t.Fatalf("position %d, want 7", a.next)
	}
	a.packets(sequence(7, 9)...)
	a.acked(9)

	w = w.again() // the agent's life ends meanwhile
	a = w.agent("s/c", epoch(2))
	if s := w.streamStatus("s/c"); a.next != 0 || s.Unknown["agent_crash"] != 1 {
		t.Errorf("position %d, %+v", a.next, s.Unknown)
	}
	a.packets("next life")
	a.end(true)

	w = w.again()
	if s := w.streamStatus("s/c"); s.State != "ended" || s.History.Packets != 6 {
		t.Errorf("%+v, history %+v", s, s.History)
	}
	r := w.analyst(w.address("p"))
	r.header()
	r.want(append(sequence(0, 3), append(sequence(7, 9), "next life")...)...)
	r.ends()
	if a = w.agent("s/c", epoch(1)); a.next != 9 {
		t.Errorf("the first epoch is at %d, want 9", a.next)
	}
	a.conn.Close()
	a = w.agent("s/c", epoch(2))
	if a.end(true); a.next != 1 {
		t.Errorf("the second epoch is at %d, want 1", a.next)
	}
	if s := w.streamStatus("s/c"); s.Unknown["agent_crash"] != 0 {
		t.Errorf("agents died: %v", s.Unknown)
	}
}

// whole reads packets of flood up to number last, and wants every one from
// number first on.
func (a *analyst) whole(first, last int) {
	a.t.Helper()
	for want := first; want <= last; want++ {
		r, err := a.record()
		if err != nil {
			a.t.Fatalf("after packet %d: %v", want-1, err)
		}
		if cut := payload(want)[:len(r.data)]; r.data != cut || r.original != 1400 {
			a.t.Fatalf("after packet %d: %.20q of %d bytes", want-1, r.data, r.original)
		}
		sec, nsec := testTime(wire.PacketNumber(want))
		if !a.nano {
			nsec /= 1000
		}
		if r.sec != sec || r.frac != nsec {
			a.t.Fatalf("packet %d has the time %d.%09d, want %d.%09d", want, r.sec, r.frac, sec, nsec)
		}
	}
}

// TestThePastFlowsIntoThePresent has analysts begin with the oldest packet at
// any time, while more comes than the ring holds, and read at any pace.
func TestThePastFlowsIntoThePresent(t *testing.T) {
	const packets = 12000 // 17 MB
	for _, memory := range []int{leastMemory, leastMemory + rand.IntN(4<<20), 64 << 20} {
		t.Run(fmt.Sprint(memory), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { keeping(c); c.Stream.Memory = config.Size(memory) },
				plain("us", oldest), plain("tls", oldest, func(l *ListenerConfig) { l.TLS = true }),
				plain("ns", oldest, func(l *ListenerConfig) { l.Format = "pcap-ns" }),
				plain("cut", oldest, func(l *ListenerConfig) { l.Snaplen = 100 }))
			a := w.agent("s/c")
			var readers sync.WaitGroup
			for i := 0; i < packets; i += 1000 {
				listener := []string{"us", "ns", "cut", "tls"}[i/1000%4]
				r := w.either(listener, listener == "tls")
				readers.Go(func() {
					r.header()
					r.whole(0, packets-1)
				})
				a.flood(i, 1000)
			}
			readers.Wait()
			for _, l := range []string{"us", "ns", "cut", "tls"} {
				w.eventually("the ledger of "+l, func() bool {
					s := w.listenerStatus(l)
					return s.balanced() && s.Sent == 3*packets
				})
			}
		})
	}
}

// TestADeathIsDatedByTheSensorsClock: both ends of the gap that tells of it are
// of one clock, however wrong that is.
func TestADeathIsDatedByTheSensorsClock(t *testing.T) {
	for what, ahead := range map[string]time.Duration{"ahead": 400 * 24 * time.Hour, "behind": -400 * 24 * time.Hour} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, keeping)
			life := func(b byte) func(*wire.Hello) {
				return func(h *wire.Hello) { h.Epoch, h.SentAt = epochOf(b), time.Now().Add(ahead).UnixNano() }
			}
			a := w.agent("s/c", life(1))
			begin := time.Now().Add(ahead)
			frame := make([]byte, wire.BatchPrefixLen)
			frame = pcap.AppendRecord(frame, uint32(begin.Unix()), uint32(begin.Nanosecond()), 1, []byte{1})
			wire.SealBatch(frame, wire.BatchHeader{Count: 1, Earliest: begin.UnixNano(), Latest: begin.UnixNano()})
			a.send(frame)
			a.acked(1)
			w.agent("s/c", life(2)) // and nothing of it comes
			w.agent("s/c", life(3))
			end := time.Now().Add(ahead)
			w.stop()
			look, err := journal.Inspect(HistoryOf(w.cfg.Data, a.streamName()), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer look.Close()
			var deaths []wire.Gap
			for _, s := range look.Segments() {
				deaths = append(deaths, s.Losses...)
			}
			if len(deaths) != 2 {
				t.Fatalf("gaps %+v, want two", deaths)
			}
			for _, g := range deaths {
				if g.Cause != wire.CauseAgentCrash || g.Earliest != begin.UnixNano() || g.Latest < g.Earliest || g.Latest > end.UnixNano() {
					t.Errorf("gap %+v, want it from %d to %d at most", g, begin.UnixNano(), end.UnixNano())
				}
			}
		})
	}
}
