package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// Options say how a journal behaves. The zero value has defaults.
type Options struct {
	// Segment is the size in bytes, of packets and index, at which the next
	// segment begins; 64 MiB if 0, at most 1 GiB.
	Segment int64

	// Age of a segment after which the next one begins; 0: never.
	Age time.Duration

	// Delay is the longest that an appended entry waits until it is written and
	// synced with all others; 50 ms if 0.
	Delay time.Duration

	// Batch is how many bytes do not wait for Delay; 4 MiB if 0.
	Batch int64

	// Key encrypts the packets of segments that are begun from now on, and
	// decrypts those that it has encrypted before. nil leaves them plain.
	Key *Key

	// Damage is the cause of the gaps that damaged files make.
	Damage wire.Cause

	// NoSync leaves out every fsync. It is the control of the tests that cut the
	// power, and for nothing else.
	NoSync bool

	// Committed, if not nil, is called whenever Durable has moved, and when
	// trouble has begun or ended. It runs on the journal's own goroutine and
	// holds it up: it must not wait, nor call Sync or Close.
	Committed func()

	Log *slog.Logger // nil: silent

	// FS is where the files are; nil: in the folder given to Open.
	FS FS
}

const (
	defaultSegment = 64 << 20
	mostSegment    = 1 << 30 // offsets in an index have 32 bits
	defaultDelay   = 50 * time.Millisecond
	defaultBatch   = 4 << 20
)

func (o *Options) complete(dir string) {
	if o.Segment <= 0 {
		o.Segment = defaultSegment
	}
	o.Segment = min(o.Segment, mostSegment)
	if o.Delay <= 0 {
		o.Delay = defaultDelay
	}
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.Damage == 0 {
		o.Damage = wire.CauseHistoryCorrupt
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("journal", dir)
}

// Epoch is one run of a capture, as its hello described it.
type Epoch struct {
	ID        wire.Epoch
	LinkType  pcap.LinkType
	Snaplen   uint32
	Interface string // for people, unchecked
	Agent     string // for people, unchecked
}

// Mark is a place in the log.
type Mark struct {
	Entries uint64            // up to here, counted from Open; a Begin that opened a segment is one
	Epoch   wire.Epoch        // of the latest entry
	Next    wire.PacketNumber // after the latest entry
	Ordinal uint64            // of the next packet
}

// Journal is the log of one stream. One goroutine at a time writes; any number
// may read, look at marks and make room.
type Journal struct {
	o         Options
	fs        FS
	log       *slog.Logger
	committer committer
	wake      chan struct{} // there may be something to do for the committer
	done      chan struct{} // the committer has ended
	menders   sync.WaitGroup

	pieces [][]byte // scratch of the goroutine that appends

	// rewriting is held, before mu, by who makes another generation of a segment.
	rewriting sync.Mutex

	mu       sync.Mutex
	moved    sync.Cond // a round is over
	backlog  backlog
	begun    bool      // something was appended since Open
	filling  bool      // records are being copied into the backlog
	tip      place     // after what was appended
	written  place     // after what was written
	durable  place     // after what is durable
	shift    int64     // from bytes of a place to offsets in the tail
	oldest   time.Time // since when something waits to be durable
	segments []*segment
	tail     *segment // the last one, if it is being written; changed by the committer
	kept     []keptFile
	doomed   []string // files to delete
	trimmed  acknowledged

	// Between the committer and others, guarded by mu.
	urgent  bool   // do not wait
	renew   bool   // begin another segment, so that the last one can go
	retire  bool   // write nothing more to the tail
	busy    bool   // a round is being made
	rounds  uint64 // that are over
	trouble error
	retry   time.Time // when to try again
	closing bool
}

// place is where the log stands after an entry.
type place struct {
	serial  uint64 // entries since Open
	begun   uint64 // of these, that opened a segment
	epoch   *Epoch // nil: none yet
	next    wire.PacketNumber
	ordinal uint64
	arrival int64
	latest  int64 // newest packet time of the epoch
	bytes   int64 // of the backlog
	jump    bool  // the numbers before next were never given to the journal
	ending
}

// ending is what may stand at the end of an epoch.
type ending struct {
	unknown bool // a gap of unknown count
	ended   bool
	final   bool // the stream has ended for good
}

func (p *place) mark() Mark {
	m := Mark{Entries: p.serial, Next: p.next, Ordinal: p.ordinal}
	if p.epoch != nil {
		m.Epoch = p.epoch.ID
	}
	return m
}

// Open recovers the journal in dir, which is made if it is missing, and starts
// its committer. It fails only if the folder cannot be used at all, or is in
// use, or holds packets that Options.Key does not open; then all is left as it is.
func Open(dir string, o Options) (*Journal, error) {
	o.complete(dir)
	if o.FS == nil {
		f, err := openFolder(dir)
		if err != nil {
			return nil, fmt.Errorf("open journal: %w", err)
		}
		o.FS = f
	}
	j := &Journal{
		o:    o,
		fs:   o.FS,
		log:  o.Log,
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	j.moved.L = &j.mu
	if err := j.recover(); err != nil {
		o.FS.Close()
		return nil, fmt.Errorf("recover journal %s: %w", dir, err)
	}
	j.committer.j = j
	go j.committer.run()
	return j, nil
}

// Next is the ordinal of the next packet to be appended.
func (j *Journal) Next() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tip.ordinal
}

// Oldest is the ordinal of the oldest packet on the disk; where there is none,
// of the next one to be written.
func (j *Journal) Oldest() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		if s.sum.packets > 0 {
			return s.header.ordinal
		}
	}
	return j.written.ordinal
}

// LastArrival is the highest arrival stamp that the journal was ever given.
func (j *Journal) LastArrival() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tip.arrival
}

// Appended is the place after everything that was appended.
func (j *Journal) Appended() Mark { return j.markOf(&j.tip) }

// Durable is the place up to which everything is on the disk, as far as the
// disk tells. It never goes back.
func (j *Journal) Durable() Mark { return j.markOf(&j.durable) }

func (j *Journal) markOf(p *place) Mark {
	j.mu.Lock()
	defer j.mu.Unlock()
	return p.mark()
}

// Pending is how many bytes, of records and of bookkeeping, were appended and
// are not durable. They are in memory; the caller bounds them. A Begin that opens
// a segment counts as what that takes on the disk.
func (j *Journal) Pending() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	each := int64(entryLen)
	if j.o.Key != nil {
		each += encryptedMore
	}
	records, entries, segments := j.tip.bytes-j.durable.bytes, j.tip.serial-j.durable.serial, j.tip.begun-j.durable.begun
	return records + int64(entries-segments)*each + int64(segments)*leastBytes
}

// Trouble is why nothing can be written now, or nil. The journal goes on
// trying.
func (j *Journal) Trouble() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.trouble
}

// Sync waits until everything that was appended is durable, or has been tried
// twice more and failed: what a failed fsync left is written elsewhere at once.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	target, rounds := j.tip.serial, j.rounds+1
	if j.busy {
		rounds++ // the round that is being made may have missed the end
	}
	for j.durable.serial < target {
		if j.rounds > rounds && j.trouble != nil {
			return j.trouble
		}
		j.hurry()
		j.moved.Wait()
	}
	return nil
}

// Close makes everything durable, or says why it cannot, and ends. The Readers
// have been closed before.
func (j *Journal) Close() error {
	err := j.Sync()
	j.end()
	if closed := j.fs.Close(); err == nil {
		err = closed
	}
	return err
}

// Discard ends a journal that nobody needs any more, and deletes its segments.
// The folder stays, with what is in quarantine.
func (j *Journal) Discard() error {
	j.end()
	l, err := list(j.fs)
	for _, f := range l.segments {
		for _, g := range f.generations {
			err = errors.Join(err, j.fs.Remove(f.name.packets(g)))
		}
		if f.index {
			err = errors.Join(err, j.fs.Remove(f.name.index()))
		}
	}
	return errors.Join(err, j.fs.Close())
}

func (j *Journal) end() {
	j.mu.Lock()
	j.closing = true
	j.signal()
	j.mu.Unlock()
	<-j.done
	j.menders.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.filling {
		j.backlog.rest()
	}
}

// hurry has the committer make a round at once; for holders of mu.
func (j *Journal) hurry() {
	j.urgent = true
	j.signal()
}

// signal wakes the committer.
func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}
