package broker

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"poip/internal/journal"
	"poip/internal/wire"
)

// TestShortEpochsDoNotFillAHistory: each has files of its own, be it empty, and
// of these a history keeps only so many. It fails without Keep's bound, or when
// the keeper does not hear that there are too many.
func TestShortEpochsDoNotFillAHistory(t *testing.T) {
	cfg := testConfig(t, keeping)
	w := startWorld(t, cfg, func(o *Options) {
		o.OpenJournal = func(dir string, o journal.Options) (*journal.Journal, error) {
			o.NoSync, o.Delay = true, time.Millisecond
			return journal.Open(dir, o)
		}
	})
	a := w.agent("s/c")
	a.packets("one")
	a.end(false)
	a.conn.Close()
	w.mu.Lock()
	h := w.streams[a.streamName()].history
	w.mu.Unlock()
	const epochs = 4096
	for i := range uint64(epochs) { // as a session would, but sooner
		e := journal.Epoch{ID: epochOf(2), LinkType: 1}
		binary.BigEndian.PutUint64(e.ID[8:], i)
		h.journal.Begin(e, 0)
		h.journal.End(false, int64(stamp(&w.arrivals)))
	}
	w.eventually("the oldest to go", func() bool { return w.streamStatus("s/c").History.Trimmed == 1 })
	if n := len(h.journal.Epochs()); n > epochs {
		t.Errorf("%d epochs are kept", n)
	}
	if s := w.streamStatus("s/c").History; s.Packets != 0 || s.Bytes > epochs*8192 {
		t.Errorf("%+v", s)
	}
}

// TestANewEpochWaitsForTheDisk: what agents begin anew while nothing can be
// written does not gather in memory. It fails without awaitDisk in Broker.begin.
func TestANewEpochWaitsForTheDisk(t *testing.T) {
	d := newDisk()
	w := newWorldOn(t, d, func(c *Config) { c.Intake.Window = 1 << 20 })
	a := w.agent("s/c")
	a.packets("one")
	a.acked(1)
	d.set(func() { d.sync = func() error { return errors.New("no") } })
	go func() { // until a newer session takes over
		for a.next = 1; a.next < 100; {
			a.offer(strings.Repeat("x", 60000))
		}
	}()
	pending := func() int64 { return w.streamStatus("s/c").History.Pending }
	most := int64(2*w.cfg.Intake.Window) + wire.MaxBatchLen
	w.eventually("the agent to be held", func() bool { return pending() > most })
	before := pending()

	other := w.dial("s")
	answered := make(chan bool)
	go func() {
		other.next = other.hello("s/c", func(h *wire.Hello) { h.Epoch = epochOf(2) }).Position
		close(answered)
	}()
	select {
	case <-answered:
		t.Error("another epoch has begun")
	case <-time.After(300 * time.Millisecond):
	}
	if now := pending(); now > before {
		t.Errorf("%d bytes were pending, and %d are", before, now)
	}
	d.set(func() { d.sync = nil })
	<-answered
	other.packets("two")
	other.acked(1)
}
