package broker

import (
	"sync"
	"time"
)

// This file is how one subscriber reads several rings: batch by batch, in the
// order in which they arrived.

const (
	// stageLen is how much of small batches is gathered for one write.
	stageLen = 64 << 10

	// largeBatch is from when on a batch is worth a write of its own, and no
	// copy.
	largeBatch = 16 << 10
)

var stages = sync.Pool{New: func() any { return new([stageLen]byte) }}

// readMerged writes the next large batch, or a number of small ones.
func (s *subscriber) readMerged(order int32) outcome {
	stage := stages.Get().(*[stageLen]byte)
	defer stages.Put(stage)
	n := 0
	s.lack = lackNothing
	for {
		c, before := s.earliest()
		if c == nil {
			break
		}
		slab, ok := s.slab(c, before)
		if !ok {
			break
		}
		if n == 0 && len(slab.data)-c.offset >= largeBatch {
			whole := s.write(c, slab)
			slab.unpin(c.ring)
			return s.written(whole)
		}
		k := s.stage(stage[n:], c, slab)
		slab.unpin(c.ring)
		if n += k; k == 0 {
			break
		}
	}
	if n == 0 {
		return s.nothing(order)
	}
	return s.writeStage(stage[:n])
}

// stage copies whole records to dst, as many as fit, and returns their length.
func (s *subscriber) stage(dst []byte, c *cursor, slab slab) int {
	from, packets := c.offset, c.packets
	t := slab.tearAt(from, packets, min(from+len(dst), len(slab.data)))
	n := copy(dst, slab.data[from:t.begin])
	c.ring.advance(c, slab.view.segment, t.begin, t.whole)
	s.inflight += t.whole - packets
	s.inflightBytes += uint64(n)
	return n
}

// writeStage offers what was gathered, and keeps what is not taken.
func (s *subscriber) writeStage(p []byte) outcome {
	n, err := s.out.offer(p)
	if err != nil {
		s.err = err
		return over
	}
	if n > 0 {
		s.progress.Store(time.Now().UnixNano())
	}
	if n < len(p) {
		s.out.keep(p[n:])
	}
	return s.written(n == len(p))
}

// written says what to do after a write.
func (s *subscriber) written(whole bool) outcome {
	switch {
	case s.err != nil:
		return over
	case !whole && s.out.tls == nil:
		return blocked
	}
	return more // the next step counts what was taken
}

// earliest returns the cursor whose next batch arrived first, and when the
// first one of the others did. What arrives from now on is left for later: it
// may be seen in one ring and not yet in another.
func (s *subscriber) earliest() (first *cursor, before uint64) {
	least := s.arrivals.Load() + 1
	before = least
	for _, c := range s.cursors {
		arrival, soonest, ok := s.next(c)
		if !ok {
			return nil, 0
		}
		if soonest > 0 && soonest < before {
			before = soonest // it is being taken in just now
		}
		switch {
		case arrival < least:
			first, least, before = c, arrival, min(least, before)
		case arrival < before:
			before = arrival
		}
	}
	return first, before
}

// next returns when the batch behind a cursor arrived; everything, if there is
// none. One that is being taken in arrives no sooner than soonest.
func (s *subscriber) next(c *cursor) (arrival, soonest uint64, ok bool) {
	for {
		arrival, soonest, skipped := c.ring.next(c)
		if skipped > 0 && !s.skip(skipped, skipOverrun) {
			return 0, 0, false
		}
		if !c.away {
			c.past.rest()
			return arrival, soonest, true
		}
		if !s.recall(c) {
			if s.lack != lackDisk || c.past.history.trouble() == nil {
				return 0, 0, false
			}
			s.lack = lackNothing // the other streams do not wait for a disk in trouble
			return everything, 0, true
		}
		if c.away {
			return c.past.arrival(c.packets), 0, true
		}
	}
}
