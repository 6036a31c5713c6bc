package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"poip/internal/wire"
)

// indexPiece is how much of an index is read at once, in bytes.
const indexPiece = 64 << 10

// A Reader reads the log from some place on: what is written, fsynced or not.
// It has files of its own and is for one goroutine.
type Reader struct {
	src source
	at  position

	view    view // of the segment that it reads
	index   File // nil: it cannot be read
	packets File // nil: there is none, or it cannot be read
	cipher  *batchCipher
	sum     summary // of the entries before at.entry, in the segment
	behind  bool    // what comes next may have been returned already

	// The chunk that is being made, and its scratch.
	entries []Entry
	taken   []entry // what entries were made of
	bytes   int     // of their records
	problem error   // damage that was found
	buf     []byte
	piece   []byte
}

// A source is where a Reader finds segments: in a journal that is open, or in
// an archive.
type source struct {
	fs      FS
	key     *Key
	damage  wire.Cause
	find    func(at *position) (view, bool)
	look    func(s *segment) view
	suspect func(s *segment, problem error) // hears of damage
}

func (j *Journal) source() source {
	return source{
		fs:     j.fs,
		key:    j.o.Key,
		damage: j.o.Damage,
		find: func(at *position) (view, bool) {
			j.mu.Lock()
			defer j.mu.Unlock()
			return find(j.segments, at)
		},
		look: func(s *segment) view {
			j.rewriting.Lock() // else its files may be those of a generation that is about to take its place
			defer j.rewriting.Unlock()
			j.mu.Lock()
			defer j.mu.Unlock()
			return s.look(false)
		},
		suspect: j.suspect,
	}
}

// Chunk is a piece of the log: consecutive entries of one segment.
type Chunk struct {
	Entries []Entry
	Records []byte // of all batches, one behind the other
}

// ReadOrdinal returns a Reader whose first batch is the one that holds the
// packet of that ordinal, or the first that comes after it.
func (j *Journal) ReadOrdinal(ordinal uint64) *Reader {
	return &Reader{src: j.source(), at: position{ordinal: ordinal}}
}

// ReadNumber returns a Reader whose first entry is the one that covers packet
// number n of the epoch, or the first that comes after it. Of an epoch that is
// not on the disk it reads nothing until it is.
func (j *Journal) ReadNumber(e wire.Epoch, n wire.PacketNumber) *Reader {
	return &Reader{src: j.source(), at: position{epoch: e, next: n, inside: true}}
}

// Close ends the Reader.
func (r *Reader) Close() {
	if r.index != nil {
		r.index.Close()
	}
	if r.packets != nil {
		r.packets.Close()
	}
	r.index, r.packets, r.view = nil, nil, view{}
}

// Next returns what comes next: at least one entry, and no more than most bytes
// of records unless the first batch has more. It is valid until the next call.
// Each batch is as its CRC says; where one is damaged, or the index is, a gap
// of exact count stands in its place. The error is io.EOF where nothing more is
// written yet; any other says why a segment cannot be opened now.
func (r *Reader) Next(most int) (Chunk, error) {
	for {
		r.entries, r.taken, r.bytes, r.problem = r.entries[:0], r.taken[:0], 0, nil
		v, found := r.src.find(&r.at)
		if !found {
			return Chunk{}, io.EOF
		}
		if !r.shows(&v) {
			here, err := r.move(&v)
			if err != nil {
				return Chunk{}, err
			}
			if !here {
				continue
			}
			if len(r.entries) > 0 { // a gap before the segment
				return Chunk{Entries: r.entries}, nil
			}
		}
		r.view = v
		before, sum, behind := r.at, r.sum, r.behind
		c := r.read(most)
		if r.problem != nil && r.stale() {
			r.at, r.sum, r.behind = before, sum, behind
			continue
		}
		if r.problem != nil {
			r.src.suspect(v.segment, r.problem)
		}
		if len(c.Entries) > 0 {
			return c, nil
		}
		if r.at.entry == before.entry && v.last {
			return Chunk{}, io.EOF
		}
	}
}

// shows says whether the Reader has the files of what v shows.
func (r *Reader) shows(v *view) bool {
	return r.view.segment == v.segment && r.view.generation == v.generation
}

// stale says whether what the Reader took for the segment is not the journal's
// any more: what looks like damage is none.
func (r *Reader) stale() bool {
	now := r.src.look(r.view.segment)
	return now.gone || now.generation != r.view.generation || now.sum.entries < r.view.sum.entries
}

// move goes to another segment, or generation. It returns false if that has
// been deleted meanwhile, and an error if it cannot be opened now.
func (r *Reader) move(v *view) (here bool, err error) {
	r.Close()
	if err := r.open(v); err != nil {
		r.view = *v
		stale := r.stale()
		if stale || isShortage(err) {
			r.Close()
		}
		switch {
		case stale:
			return false, nil
		case isShortage(err):
			return false, fmt.Errorf("open segment %s: %w", v.segment.name, err)
		}
		r.src.suspect(v.segment, err)
	}
	r.view = *v
	before := r.at
	r.at.enter(v)
	r.behind = true
	r.sum = v.segment.header.summary()
	if from := max(before.next, v.from); before.inside && before.epoch == r.at.epoch && from < r.sum.next {
		r.hole(&before, from, r.sum.next)
	}
	return true, nil
}

// isShortage says whether a file cannot be opened for want of descriptors or
// memory. That says nothing about the file.
func isShortage(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

func (r *Reader) open(v *view) (err error) {
	name := v.segment.name
	r.cipher, _ = r.src.key.cipher(&v.segment.header) // whose key is another one has no packets
	if r.index, err = r.src.fs.OpenFile(name.index(), os.O_RDONLY, 0); err != nil {
		r.index = nil
		return err
	}
	if v.noPackets {
		return nil
	}
	if r.packets, err = r.src.fs.OpenFile(name.packets(v.generation), os.O_RDONLY, 0); err != nil {
		r.packets = nil
		return err
	}
	return nil
}

// hole emits the gap between two numbers whose entries are damaged or missing.
func (r *Reader) hole(after *position, from, to wire.PacketNumber) {
	r.emit(&entry{kind: Gap, cause: r.src.damage, first: from, count: uint64(to - from), ordinal: after.ordinal, arrival: after.arrival})
}

// emit appends an entry to the chunk.
func (r *Reader) emit(e *entry) {
	r.at.pass(e)
	r.entries = append(r.entries, entryOf(&r.view.segment.header.epoch, e))
	r.taken = append(r.taken, *e)
}

// read reads the entries that come next, and the records of their batches.
func (r *Reader) read(most int) Chunk {
	r.readEntries(most)
	begin, end := int64(-1), int64(0)
	for i := range r.taken {
		if e := &r.taken[i]; e.kind == Batch {
			if begin < 0 {
				begin = int64(e.offset)
			}
			r.entries[i].Offset = int(int64(e.offset) - begin)
			end = e.end()
		}
	}
	if begin < 0 {
		return Chunk{Entries: r.entries}
	}
	if int64(cap(r.buf)) < end-begin {
		r.buf = make([]byte, end-begin)
	}
	records := r.buf[:end-begin]
	r.fetch(records, begin)
	used := 0
	for i := range r.taken {
		if r.taken[i].kind == Batch {
			used = r.check(i, records, used)
		}
	}
	return Chunk{Entries: r.entries, Records: records[:used]}
}

// fetch fills b from the packets; what cannot be read is zero.
func (r *Reader) fetch(b []byte, offset int64) {
	n := 0
	if r.packets != nil {
		n, _ = r.packets.ReadAt(b, offset)
	}
	clear(b[n:])
}

// check turns a damaged batch of the chunk into a gap. What is decrypted moves
// up to what is used of the records already; it returns how much of them is then.
func (r *Reader) check(i int, records []byte, used int) int {
	e, shown := &r.taken[i], &r.entries[i]
	stored := records[shown.Offset : shown.Offset+shown.Length]
	was, b, err := r.cipher.open(e, stored)
	if err != nil { // something before it may have kept it from being read
		r.fetch(stored, int64(e.offset))
		was, b, err = r.cipher.open(e, stored)
	}
	if err != nil {
		r.problem = fmt.Errorf("batch of packets %d to %d: %w", e.first, e.next()-1, err)
		*shown = entryOf(shown.Epoch, e.lost(r.src.damage))
		return used
	}
	if r.cipher != nil {
		shown.CRC, shown.Offset, shown.Length = was.crc, used, copy(records[used:], b)
	}
	return shown.Offset + shown.Length
}

// lost is the gap that stands where a damaged batch stood.
func (e *entry) lost(cause wire.Cause) *entry {
	g := *e
	g.kind, g.cause, g.crc, g.length, g.flags = Gap, cause, 0, 0, 0
	return &g
}

// readEntries takes entries of the index, as many as most allows.
func (r *Reader) readEntries(most int) {
	piece := r.readPiece()
	good := r.at.entry // after the last entry that is one
	for ; len(piece) > 0; piece = piece[entryLen:] {
		e, ok := parseEntry(piece, r.view.segment.seed)
		if ok = ok && e.kind != seal && r.sum.follows(&e); !ok {
			r.problem = fmt.Errorf("entry %d of the index is damaged", r.at.entry)
		} else if !r.take(&e, most) {
			return
		}
		if r.at.entry++; ok {
			good = r.at.entry
		}
	}
	if !r.view.complete {
		r.at.entry = good // an entry to come will say how much was lost
	} else if to := r.view.sum.next; r.at.entry == r.view.sum.entries && r.sum.next < to {
		if r.sum.next = to; r.at.next < to {
			r.hole(&r.at, r.at.next, to)
		}
	}
}

// readPiece reads some of the index.
func (r *Reader) readPiece() []byte {
	n := min(indexPiece, max(0, r.view.sum.entries-r.at.entry)*entryLen)
	if int64(cap(r.piece)) < n {
		r.piece = make([]byte, indexPiece)
	}
	piece, got := r.piece[:n], 0
	if r.index != nil {
		got, _ = r.index.ReadAt(piece, headerLen+r.at.entry*entryLen)
	}
	clear(piece[got:]) // zeros are no entry
	return piece
}

// take takes an entry into the chunk, unless it was returned before. It
// returns false if the entry has to wait for the next chunk.
func (r *Reader) take(e *entry, most int) bool {
	if e.first > r.sum.next {
		if len(r.entries) > 0 {
			return false
		}
		if r.sum.next = e.first; e.first > r.at.next {
			r.hole(&r.at, r.at.next, e.first)
		}
	}
	if r.behind = r.behind && r.at.passed(e); !r.behind {
		if e.kind == Batch {
			if r.bytes > 0 && (r.bytes+int(e.length) > most || int64(e.offset) != r.sum.size) {
				return false
			}
			r.bytes += int(e.length)
		}
		r.emit(e)
	}
	r.sum.add(e)
	return true
}
