package agent

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"poip/internal/journal"
	"poip/internal/wire"
)

// Overflow says what to do when there is no room left, neither in memory nor on
// disk.
type Overflow string

// The policies.
const (
	OverflowDropOldest Overflow = "drop_oldest"
	OverflowDropNewest Overflow = "drop_newest"
	OverflowBlock      Overflow = "block" // the capture waits
)

// SpoolSync says how soon packets go to disk.
type SpoolSync string

// The ways to sync.
const (
	SyncPeriodic SpoolSync = "periodic" // once they were not acknowledged for a second
	SyncBatch    SpoolSync = "batch"    // all of them, at once
)

// spoolDelay is the longest that an entry waits for its fsync.
func (s SpoolSync) spoolDelay() time.Duration {
	if s == SyncBatch {
		return 50 * time.Millisecond
	}
	return time.Second
}

// diskShare is the part of the disk that the streams of one capture have.
type diskShare struct {
	limit   int64 // bytes
	streams atomic.Int64
}

func (d *diskShare) each() int64 { return d.limit / max(d.streams.Load(), 1) }

// Segments of a spool are a sixteenth of it, so that little is lost at once
// when the oldest has to go.
const (
	leastSegment = 256 << 10
	mostSegment  = 64 << 20
)

// mostPending bounds what the journal has in memory and not on disk, in bytes.
const mostPending = 8 << 20

// A spool keeps on disk what a stream's queue has and no relay has acknowledged
// soon enough: memory first, disk as the overflow. Its goroutine is the only
// one that writes; the session's reads back what was moved out of memory.
type spool struct {
	queue    *queue
	journal  *journal.Journal
	share    *diskShare
	overflow Overflow
	batch    bool            // everything is to go to disk at once
	stopping <-chan struct{} // closed when the agent is to stop: likewise
	log      *slog.Logger

	quit chan struct{} // closed when the uplink has ended
	done chan struct{} // closed when everything is on disk, or will never be
	safe bool          // it is; set before done is closed

	// Owned by run.
	all     bool  // from batch or stopping
	used    bool  // the journal may hold something that nobody needs any more
	pending int64 // bytes that the journal may have in memory
	arrival int64 // the latest stamp

	// reading is held while the front of what is on disk only is read, or
	// changed on the disk. It guards what follows.
	reading     sync.Mutex
	reader      *journal.Reader
	readerEpoch wire.Epoch
	readerAt    wire.PacketNumber
}

// openSpool recovers what an earlier run of the agent has left in dir, and puts
// it into the queue, which nobody else uses yet. It does not run yet.
func openSpool(dir string, fs journal.FS, q *queue, c spoolConfig, stream string, log *slog.Logger) (*spool, error) {
	s := &spool{
		queue: q, share: c.share, overflow: c.overflow, batch: c.sync == SyncBatch, log: log,
		pending: min(mostPending, max(q.memory.limit/8, 2*largestFrame)),
		quit:    make(chan struct{}), done: make(chan struct{}),
	}
	q.work = make(chan struct{}, 1)
	j, err := journal.Open(dir, journal.Options{
		Segment: min(max(c.share.limit/16, leastSegment), mostSegment),
		Delay:   c.sync.spoolDelay(), Batch: s.pending / 2, Damage: wire.CauseSpoolCorrupt, Key: c.key,
		Committed: q.rouse, Log: log, FS: fs,
	})
	if err != nil {
		q.work = nil
		return nil, fmt.Errorf("open spool: %w", err)
	}
	c.share.streams.Add(1)
	s.journal, s.arrival = j, j.LastArrival()
	s.recover(stream, time.Now().UnixNano())
	return s, nil
}

// spoolConfig is what the configuration says about a capture's spools.
type spoolConfig struct {
	share    *diskShare
	overflow Overflow
	sync     SpoolSync
	key      *journal.Key // nil: plain
}

// nobody is the epoch that a journal is in while it holds nothing that a relay has
// not acknowledged.
var nobody journal.Epoch

// recover puts the epochs on disk into the queue.
func (s *spool) recover(stream string, now int64) {
	for _, state := range leftIn(s.journal) {
		s.used = true
		s.queue.recover(stream, state, s.earliest(state), now)
		s.log.Info("spool holds an epoch of an earlier run", "epoch", state.ID, "packets", state.Packets, "bytes", state.Bytes)
	}
}

// leftIn lists the epochs of which a journal holds what no relay has acknowledged.
func leftIn(j *journal.Journal) []journal.EpochState {
	states := j.Epochs()
	for i, state := range slices.Backward(states) {
		if state.ID == nobody.ID {
			return states[i+1:]
		}
	}
	return states
}

// earliest is the time of an epoch's oldest packet, or 0.
func (s *spool) earliest(state journal.EpochState) int64 {
	r := s.journal.ReadNumber(state.ID, state.First)
	defer r.Close()
	chunk, err := r.Next(0)
	if err != nil {
		return 0
	}
	return chunk.Entries[0].Earliest
}

// run spools until quit is closed; then everything that is left.
func (s *spool) run() {
	defer close(s.done)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	s.all = s.batch
	stopping := s.stopping
	for {
		s.round()
		select {
		case <-s.queue.work:
		case <-second.C:
			s.queue.tick()
		case <-stopping:
			s.all, stopping = true, nil
		case <-s.quit:
			s.finish()
			return
		}
	}
}

// round does what there is to do.
func (s *spool) round() {
	s.queue.settle(s.journal.Durable().Entries)
	s.trim()
	s.makeWay()
	h := s.queue.hurry(s.all)
	for s.journal.Trouble() == nil && s.journal.Pending() < s.pending && s.queue.hasErrand(h) && s.room() {
		e, some := s.queue.spoolNext(h, false)
		if !some {
			break
		}
		s.write(e)
	}
	if s.journal.Trouble() == nil && s.queue.memory.scarce() && s.journal.Sync() == nil {
		s.queue.settle(s.journal.Durable().Entries)
	}
}

// write appends to the journal, which copies it.
func (s *spool) write(e errand) {
	s.used = true
	s.arrival = max(s.arrival, time.Now().UnixNano())
	epoch := epochOf(e.hello)
	switch {
	case e.item == nil:
		s.journal.Begin(epoch, e.next)
		s.journal.End(e.final, s.arrival)
		return
	case e.batch:
		frame := s.queue.sealed(e.item)
		header, records := frame[wire.FrameHeaderLen:wire.BatchPrefixLen], frame[wire.BatchPrefixLen:]
		s.journal.Begin(epoch, wire.ParseBatchHeader(header).First)
		s.journal.Append(header, records, s.arrival)
	default:
		s.journal.Begin(epoch, e.gap.First)
		s.journal.Gap(e.gap, s.arrival)
	}
	s.queue.spooled(e.item, s.journal.Appended().Entries)
}

func epochOf(h wire.Hello) journal.Epoch {
	return journal.Epoch{ID: h.Epoch, LinkType: h.LinkType, Snaplen: h.Snaplen, Interface: h.Interface, Agent: h.Agent}
}

// trim deletes what was acknowledged.
func (s *spool) trim() {
	epoch, acked, some := s.queue.standing()
	switch {
	case some:
		s.journal.TrimBelow(epoch, acked)
	case s.used:
		s.journal.Begin(nobody, 0)
		s.journal.Sync() // trouble is told elsewhere
		s.journal.TrimBelow(nobody.ID, 0)
		s.used = false
	}
}

// room says whether there is room for one more batch, and makes it if it may.
func (s *spool) room() bool {
	for s.journal.Size()+s.journal.Pending()+largestFrame > s.share.each() {
		if s.overflow != OverflowDropOldest || !s.dropOldest() {
			return false
		}
	}
	return true
}

// dropOldest turns the oldest of what was never sent into a gap on disk. All that
// was given to the journal is durable then, so that no segment holds anything
// that is to be sent from memory.
func (s *spool) dropOldest() bool { return s.journal.Sync() == nil && s.dropDurable() }

// makeWay drops the oldest where the disk is full before the spool is, and has
// the disk tried again. What is written and not durable then, memory has as well.
func (s *spool) makeWay() {
	if s.overflow != OverflowDropOldest || !journal.IsFull(s.journal.Trouble()) {
		return
	}
	if s.journal.Retire() && s.dropDurable() {
		s.journal.Sync() // trouble that lasts is told elsewhere
	}
}

// dropDurable drops the oldest segment, of those that hold nothing else than is
// durable, and was never sent.
func (s *spool) dropDurable() bool {
	s.queue.settle(s.journal.Durable().Entries)
	s.reading.Lock()
	defer s.reading.Unlock()
	for _, d := range s.queue.droppable() {
		if s.drop(d) {
			return true
		}
	}
	return false
}

func (s *spool) drop(d diskPart) bool {
	gone := s.journal.DropOldest(d.epoch, d.first, d.after)
	if gone.Bytes <= 0 {
		return false
	}
	s.closeReader()
	s.queue.dropped(d.epoch, gone.Packets)
	return true
}

// finish puts everything on disk that no relay has acknowledged, with the ends
// of its epochs, so that the next run of the agent knows that nothing is missing.
func (s *spool) finish() {
	s.round()
	if !s.queue.finished() {
		s.lastErrands()
	}
	s.trim()
	s.reading.Lock()
	s.closeReader()
	s.reading.Unlock()
	err := s.journal.Close()
	if err != nil {
		s.log.Error("spool is left without the latest packets", "error", err)
	}
	s.safe = err == nil
}

func (s *spool) lastErrands() {
	for {
		if s.journal.Pending() >= s.pending {
			if err := s.journal.Sync(); err != nil {
				return // Close says so as well
			}
			s.queue.settle(s.journal.Durable().Entries)
		}
		fits := s.room()
		e, some := s.queue.spoolNext(hasteAll, true)
		if !some {
			return
		}
		if e.batch && !fits {
			e = s.queue.forfeit(e)
		}
		s.write(e)
	}
}
