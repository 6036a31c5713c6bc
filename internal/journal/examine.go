package journal

import (
	"fmt"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// mostEntries bounds how much of an index is believed, whatever its length.
const mostEntries = mostSegment / entryLen

// An examination finds out what a segment holds. It changes nothing.
type examination struct {
	fs     FS
	key    *Key
	damage wire.Cause
	found  *found
	known  *known // nil: nothing but what the files say
	before place  // at the end of the segment before; for what the files do not say

	whole    bool // look at all entries, whatever a seal says
	trusting bool // do not read the records

	// Where the next segment of the epoch begins: what lies beyond was written
	// there again.
	limit   wire.PacketNumber
	limited bool

	index   File // nil: missing
	packets File // nil: missing, or there are none
	cipher  *batchCipher
	buf     []byte
	finding
}

// known is what an open journal knows of a segment, whatever its files say.
type known struct {
	header header
	sum    summary
}

// A finding is what a segment turned out to hold.
type finding struct {
	header  header
	sum     summary
	size    int64 // of the pcap file as it is
	missing bool  // it is not there, or its header cannot be read
	vouched bool  // by the seal alone: entries were not read

	// Where the seal does not vouch: what is to be kept, gaps in place of what
	// is damaged. The first intact ones stand in the index as they are.
	entries  []entry
	intact   int
	readable int64 // entries of the index up to which the log goes

	reindex  bool    // the index has to be made anew
	repack   bool    // the pcap file as well
	torn     bool    // something at the end is not whole
	problems []error // damage

	impossible error // not nil: nothing is known, try again later
}

// limitBy sets the limit that the segments after it make.
func (x *examination) limitBy(after []*found) {
	if len(after) > 0 {
		x.limit, x.limited = after[0].name.first, after[0].name.epoch == x.found.name.epoch
	}
}

// examine looks at a segment.
func (x *examination) examine() {
	x.open()
	defer x.close()
	x.sum = x.header.summary()
	if !x.unlock() || x.vouch() {
		return
	}
	if x.reindex && !x.anyEntry() {
		x.rebuild()
		return
	}
	x.readThrough()
}

func (x *examination) close() {
	if x.index != nil {
		x.index.Close()
	}
	if x.packets != nil {
		x.packets.Close()
	}
	x.index, x.packets = nil, nil // the next generation may have none
}

func (x *examination) problem(format string, args ...any) {
	if len(x.problems) < 100 { // enough for a log
		x.problems = append(x.problems, fmt.Errorf(format, args...))
	}
}

func (x *examination) anyEntry() bool {
	any := false
	x.scan(func(_ int64, e *entry, ok bool) bool {
		if ok && !any && x.reindex {
			x.header.ordinal = max(x.header.ordinal, e.ordinal-min(e.ordinal, uint64(e.first-min(e.first, x.header.first))))
			x.sum = x.header.summary()
		}
		any = any || ok
		return !any
	})
	return any
}

// readThrough walks all entries and reads all batches. Damage before the last
// confirmation is damage, and becomes a gap; beyond it, the log had not come
// further.
func (x *examination) readThrough() {
	confirmed, last := int64(0), int64(-1)
	x.scan(func(i int64, e *entry, ok bool) bool {
		if ok && e.flags&flagConfirmed != 0 {
			confirmed = i
		}
		if ok {
			last = i
		}
		return true
	})
	prefix := true // so far, everything stands in the index as it is
	x.scan(func(i int64, e *entry, ok bool) bool {
		if i > last {
			return false
		}
		x.readable = i
		if ok && e.kind == seal {
			x.obey(e, &prefix)
			return false
		}
		if !ok || !x.sum.follows(e) {
			x.torn = i >= confirmed
			if !x.torn {
				x.problem("entry %d of the index is damaged", i)
				prefix = false
			}
			return !x.torn
		}
		more := x.keep(e, i < confirmed, &prefix)
		if more {
			x.readable = i + 1
		}
		return more
	})
	x.settle()
}

// obey takes over what a seal says.
func (x *examination) obey(e *entry, prefix *bool) {
	if x.limited && e.first > x.limit {
		return
	}
	x.fill(e, prefix)
	x.sum.ordinal, x.sum.ending = max(x.sum.ordinal, e.ordinal), endingOf(e.flags)
	x.sum.lastArrival = max(x.sum.lastArrival, e.arrival)
}

// complete adds what the journal knows and the files do not say.
func (x *examination) complete() {
	prefix := false
	e := x.known.sum.seal()
	e.offset = uint32(x.sum.size)
	x.obey(&e, &prefix)
	x.header = x.known.header
}

// keep adds an entry to those that are kept. It returns false where the log
// ends.
func (x *examination) keep(e *entry, confirmed bool, prefix *bool) bool {
	if x.limited && (e.next() > x.limit || !confirmed && e.first >= x.limit) {
		return x.clip(e, confirmed, prefix)
	}
	if e.kind == Batch {
		if err := x.verify(e); err != nil {
			if !confirmed {
				x.torn = true
				return false
			}
			x.problem("packets %d to %d, at offset %d: %w", e.first, e.next()-1, e.offset, err)
			x.add(e.lost(x.damage), prefix, false)
			x.sum.ordinal, x.sum.size = e.ordinalAfter(), e.end()
			return true
		}
	}
	x.fill(e, prefix)
	x.add(e, prefix, true)
	return true
}

// clip ends the segment where the next one begins.
func (x *examination) clip(e *entry, confirmed bool, prefix *bool) bool {
	if confirmed && e.kind == Gap && e.first < x.limit {
		x.fill(e, prefix)
		g := *e
		g.count = uint64(x.limit - e.first)
		x.add(&g, prefix, false)
	}
	return false
}

// fill adds a gap where entries before e are damaged.
func (x *examination) fill(e *entry, prefix *bool) {
	if e.first <= x.sum.next {
		return
	}
	*prefix = false
	x.add(&entry{
		kind:    Gap,
		cause:   x.damage,
		first:   x.sum.next,
		count:   uint64(e.first - x.sum.next),
		arrival: x.sum.lastArrival,
		ordinal: x.sum.ordinal,
		offset:  uint32(x.sum.size),
	}, prefix, false)
	x.sum.ordinal, x.sum.size = e.ordinal, int64(e.offset)
}

func (x *examination) add(e *entry, prefix *bool, asItIs bool) {
	if *prefix = *prefix && asItIs; *prefix {
		x.intact++
	}
	x.entries = append(x.entries, *e)
	x.sum.add(e)
}

// verify reads a batch.
func (x *examination) verify(e *entry) error {
	if x.trusting {
		return nil
	}
	if x.packets == nil {
		return fmt.Errorf("there is no pcap file")
	}
	if x.buf == nil {
		x.buf = make([]byte, wire.MaxBatchLen)
	}
	b := x.buf[:e.length]
	if _, err := x.packets.ReadAt(b, int64(e.offset)); err != nil {
		return err
	}
	_, _, err := x.cipher.open(e, b)
	return err
}

// settle decides what has to be made anew.
func (x *examination) settle() {
	if len(x.problems) == 0 && !x.reindex {
		return
	}
	// The pcap file is fine as it is if its records up to the end are those that
	// are kept.
	offset := int64(pcap.FileHeaderLen)
	for i := range x.entries {
		if e := &x.entries[i]; e.kind == Batch {
			x.repack = x.repack || int64(e.offset) != offset
			offset = e.end()
		}
	}
	x.repack = x.repack || x.sum.size != offset || x.packets != nil && x.size != offset
	x.reindex = true
}
