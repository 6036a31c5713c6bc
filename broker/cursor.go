package broker

import (
	"math"
	"slices"
	"sort"
	"time"
)

// A cursor is where one subscriber stands in one ring.
type cursor struct {
	ring      *ring
	rendition *rendition
	owner     *subscriber // nil in tests of the ring
	past      *past       // how it reads what the ring has no more; nil: not at all
	blocks    bool        // the ring, or the history, keeps what this cursor has not passed
	start     uint64      // ordinal of the first packet that was offered; set by attach

	// Owned by the holder of the subscriber's writer role.
	offset  int  // in the rendition of the segment; unresolved: where the packet is that has the ordinal packets
	parched bool // it is away, and the history had nothing more to read when it was asked

	// Guarded by ring.mu; only the holder of the writer's role changes them,
	// and reads them without it.
	seq     uint64 // of the segment
	packets uint64 // ordinal of the next packet
	away    bool   // the next packet is one that the ring has no more and the history may have
}

const unresolved = -1

// everything is later than any batch arrives.
const everything = math.MaxUint64

// attach puts a cursor at its outset, as far as that is still there.
func (r *ring) attach(c *cursor, f form, from outset) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.ring, c.rendition = r, r.renditionIn(f)
	head := r.head.Load()
	c.seq, c.offset, c.packets = r.nextSeq, 0, head
	switch n := len(r.segments); {
	case r.history != nil:
		c.seq, c.offset, c.packets = 0, unresolved, min(head, uint64(from))
		c.past, c.away = r.history.newPast(r.link, f), true
		r.locate(c)
		if c.blocks {
			r.history.enlist(c)
		}
	case n > 0 && from == atTail:
		c.seq, c.offset = r.segments[n-1].seq, unresolved
	case n > 0:
		c.seq, c.packets = r.segments[0].seq, r.segments[0].base
	}
	c.start = c.packets
	r.cursors = append(r.cursors, c)
}

// renditionIn finds or makes the ring's rendition in a form; for holders of mu.
func (r *ring) renditionIn(f form) *rendition {
	n := r.renditions[f]
	if n == nil {
		n = &rendition{form: f, keep: renditionPages}
		r.renditions[f] = n
	}
	n.users++
	return n
}

// detach takes a cursor off its ring.
func (r *ring) detach(c *cursor) {
	if c.past != nil {
		r.history.discharge(c)
		c.past.end()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.cursors, c)
	r.cursors = slices.Delete(r.cursors, i, i+1)
	if c.rendition.users--; c.rendition.users == 0 {
		delete(r.renditions, c.rendition.form)
	}
	r.signalMoved()
	r.giveUp()
}

// offered is how many packets the cursor has been offered. Anybody may ask.
func (c *cursor) offered() uint64 { return c.ring.head.Load() - c.start }

// waitMoved waits until a cursor has passed the end of a segment, or for so long.
func (r *ring) waitMoved(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.moved:
	case <-timer.C:
	}
}

func (r *ring) signalMoved() {
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// A view is what a cursor may read now: the batches of one segment up to the
// last of its marks. The segment is pinned until unpin.
type view struct {
	segment *segment // nil: there is nothing
	marks   []mark
	nanos   []uint16
}

// view returns what there is behind the cursor, of batches that arrived
// before the given number. Where the ring has passed the cursor, it moves on
// to the oldest packet and says how many it has skipped.
func (r *ring) view(c *cursor, before uint64) (v view, skipped uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, skipped := r.settle(c)
	if s == nil {
		return view{}, skipped
	}
	marks := s.marks
	if before != everything {
		n, _ := slices.BinarySearchFunc(marks, before, func(m mark, a uint64) int { return compare(m.arrival, a) })
		marks = marks[:n]
	}
	if len(marks) == 0 || s.base+uint64(marks[len(marks)-1].packets) <= c.packets {
		return view{}, skipped
	}
	s.refs.Add(1)
	return view{segment: s, marks: marks, nanos: s.nanos}, skipped
}

// next returns when the batch behind the cursor arrived; everything, if there
// is none. No batch that comes later arrives before the time least.
func (r *ring) next(c *cursor) (arrival, least, skipped uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, skipped := r.settle(c)
	if s == nil {
		return everything, r.coming.Load(), skipped
	}
	i := markAfter(s.marks, uint32(c.packets-s.base))
	return s.marks[i].arrival, 0, skipped
}

// settle moves the cursor to the segment that holds the packet behind it, and
// returns that; nil, if the ring has no such packet. For holders of mu.
func (r *ring) settle(c *cursor) (s *segment, skipped uint64) {
	if r.history != nil {
		r.locate(c)
	} else {
		skipped = r.leap(c)
	}
	if c.away || len(r.segments) == 0 || c.packets == r.head.Load() {
		return nil, skipped
	}
	for {
		s = r.segments[c.seq-r.segments[0].seq]
		if c.packets < s.base+s.packets() {
			return s, skipped
		}
		if s == r.segments[len(r.segments)-1] {
			return nil, skipped
		}
		c.seq, c.offset = c.seq+1, 0
	}
}

// leap moves a cursor that the ring has passed to the oldest packet, and
// returns how many it has skipped. For holders of mu.
func (r *ring) leap(c *cursor) (skipped uint64) {
	head := r.head.Load()
	switch {
	case len(r.segments) == 0 && c.packets < head: // emptied
		skipped = head - c.packets
		c.seq, c.offset, c.packets = r.nextSeq, 0, head
	case len(r.segments) > 0 && c.seq < r.segments[0].seq && c.packets < head:
		skipped = r.segments[0].base - c.packets
		c.seq, c.offset, c.packets = r.segments[0].seq, 0, r.segments[0].base
	}
	return skipped
}

// locate finds out whether a cursor is in the ring, and where. One that is away
// comes back with some room behind it, so that it does not fall out again at
// once, or when there is nothing more on disk. For holders of mu.
func (r *ring) locate(c *cursor) {
	n := len(r.segments)
	if n == 0 || c.packets < r.segments[0].base {
		if gone := c.packets < r.head.Load(); gone != c.away {
			c.away, c.offset = gone, unresolved
		}
		return
	}
	if c.away && !c.parched && c.packets < r.segments[n/4].base {
		return
	}
	if c.away || c.seq < r.segments[0].seq {
		i := sort.Search(n, func(i int) bool { return r.segments[i].base > c.packets }) - 1
		c.seq, c.offset = r.segments[i].seq, unresolved
	}
	c.away, c.parched = false, false
}

// relocate finds out anew whether the cursor is in the ring.
func (r *ring) relocate(c *cursor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.locate(c)
}

// pass moves the cursor over packets that are not to be had.
func (r *ring) pass(c *cursor, packets uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.packets += packets
}

// needs is the ordinal of the oldest packet that the cursor has not passed, or
// of the one to come. Anybody may ask.
func (c *cursor) needs() uint64 {
	c.ring.mu.Lock()
	defer c.ring.mu.Unlock()
	return c.packets
}

// advance moves the cursor behind a packet of its segment.
func (r *ring) advance(c *cursor, s *segment, offset int, packets uint64) {
	r.mu.Lock()
	c.offset, c.packets = offset, packets
	if s != r.current && packets == s.base+s.packets() {
		r.signalMoved()
	}
	r.mu.Unlock()
}

// markAfter returns the index of the mark of the batch that holds the packet.
func markAfter(marks []mark, packet uint32) int {
	i, _ := slices.BinarySearchFunc(marks, packet+1, func(m mark, p uint32) int { return compare(m.packets, p) })
	return i
}

func compare[T uint32 | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
