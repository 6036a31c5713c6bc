package broker

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/journal"
	"poip/internal/wire"
)

// A history is the disk body of one stream: a journal of everything that came,
// as far back as size and age allow. Its ordinals are those of the stream's
// rings, so what a ring has no more is found here under the same count.
type history struct {
	// Set once before it is used.
	name    auth.StreamName
	log     *slog.Logger
	journal *journal.Journal
	archive *archive
	closed  chan struct{}

	limit   atomic.Int64  // bytes on disk
	trimmed atomic.Uint64 // packets that had to go

	users int // the stream, and cursors; guarded by archive.mu

	mu       sync.Mutex
	dry      map[*subscriber]struct{} // they wait for the disk to have more
	blockers map[*cursor]struct{}     // readers for whom the stream is held
	overfull time.Time                // since when it is not trimmed because of them; zero: it is
	held     uint64                   // ordinal that they have to pass before more can go; 0: none
}

// settled says whether the disk has all that came.
func (h *history) settled() bool {
	return h.journal.Durable().Entries == h.journal.Appended().Entries
}

// safe is the number below which the disk has everything of the epoch, as far
// as is known at once.
func (h *history) safe(e wire.Epoch) wire.PacketNumber {
	if m := h.journal.Durable(); m.Epoch == e {
		return m.Next
	}
	return 0
}

func (h *history) pending() int64 { return h.journal.Pending() }

func (h *history) trouble() error { return h.journal.Trouble() }

// committed is called by the journal when it has made progress, or is in
// trouble, or out of it.
func (h *history) committed() {
	h.wakeDry()
	if h.journal.Trouble() != nil || h.excess() > 0 {
		h.archive.tend()
	}
}

// awaitMore has the subscriber told when the disk has more.
func (h *history) awaitMore(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dry[s] = struct{}{}
}

func (h *history) wakeDry() {
	h.mu.Lock()
	waiting := slices.Collect(maps.Keys(h.dry))
	clear(h.dry)
	h.mu.Unlock()
	for _, s := range waiting {
		s.notify()
	}
}

// enlist notes a cursor for whom the stream is held back.
func (h *history) enlist(c *cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blockers[c] = struct{}{}
}

func (h *history) discharge(c *cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.blockers, c)
}

// slowest is the blocking reader who needs the oldest packet, and its ordinal;
// nil and everything if there is none.
func (h *history) slowest() (slowest *cursor, ordinal uint64) {
	h.mu.Lock()
	all := slices.Collect(maps.Keys(h.blockers))
	h.mu.Unlock()
	ordinal = everything
	for _, c := range all {
		if at := c.needs(); at < ordinal {
			slowest, ordinal = c, at
		}
	}
	return slowest, ordinal
}

// holder is the reader who keeps the history from being trimmed, which ought
// to be, and since when.
func (h *history) holder() (*cursor, time.Time) {
	h.mu.Lock()
	since, held := h.overfull, h.held
	h.mu.Unlock()
	if since.IsZero() {
		return nil, time.Time{}
	}
	c, at := h.slowest()
	if at >= held {
		h.archive.tend()
		return nil, time.Time{}
	}
	return c, since
}

// trim makes the history no larger and no older than it may be, but leaves what
// a blocking reader needs: then it may grow by what is on its way from the
// agent, which waits.
func (h *history) trim(limit, since int64) {
	h.limit.Store(limit)
	_, needed := h.slowest()
	packets, held := h.journal.KeepFrom(needed, limit, since)
	h.trimmed.Add(packets)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.held = held; {
	case held == 0:
		h.overfull = time.Time{}
	case h.overfull.IsZero():
		h.overfull = time.Now()
	}
}

// excess is by how many bytes the history is larger than it may be.
func (h *history) excess() int64 { return h.journal.Excess(h.limit.Load()) }

// yield gives up the oldest part of the history, for the disk is full.
func (h *history) yield(part int64) {
	packets, freed := h.journal.Keep(h.journal.Size()-part, 0)
	h.trimmed.Add(packets)
	if freed > 0 {
		h.log.Warn("the disk is full; the oldest of the history is dropped", "packets", packets, "bytes", freed)
	}
}

// Bounds of a history, in bytes. The least holds some segments.
const (
	leastHistory = 4 << 20
	mostHistory  = 1 << 50
)

func (c StreamConfig) checkHistory() []error {
	var errs []error
	if h := c.History; h != 0 && (h < leastHistory || h > mostHistory) {
		errs = append(errs, fmt.Errorf("key stream.history: %s: want 4MiB to 1024TiB, or \"0\" for none", h))
	}
	if c.HistoryFull != "hold" && c.HistoryFull != "drop_oldest" {
		errs = append(errs, fmt.Errorf("key stream.history_full: %q: want one of %q", c.HistoryFull, []string{"hold", "drop_oldest"}))
	}
	return errs
}

// segment is at how many bytes, and after how long, a file is full: a history
// is trimmed by whole files.
func (c StreamConfig) segment() (bytes int64, age time.Duration) {
	bytes = min(max(int64(c.History)/16, 1<<20), 64<<20)
	if c.HistoryAge > 0 {
		age = max(time.Duration(c.HistoryAge)/24, time.Minute)
	}
	return bytes, age
}
