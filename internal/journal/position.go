package journal

import "poip/internal/wire"

// A position is a place to go on from: whatever is before it has been returned
// already, or was not asked for.
type position struct {
	// The segment, and the next entry of that generation of it; 0: none yet.
	seq        uint64
	generation uint32
	entry      int64

	ordinal uint64
	arrival int64 // that was returned last

	inside  bool // what follows is known, not only the ordinal
	epoch   wire.Epoch
	next    wire.PacketNumber
	unknown bool // a gap of unknown count at next has been returned
	ended   bool // the end of the epoch has been
}

// A view is a segment as it was at one moment.
type view struct {
	segment    *segment
	generation uint32
	noPackets  bool
	from       wire.PacketNumber
	sum        summary
	last       bool // no segment follows
	complete   bool // nothing more will be written to it
	gone       bool
}

// look is for holders of Journal.mu.
func (s *segment) look(last bool) view {
	return view{
		segment:    s,
		generation: s.generation,
		noPackets:  s.noPackets,
		from:       s.from,
		sum:        s.sum,
		last:       last,
		complete:   s.complete,
		gone:       s.gone,
	}
}

// find returns the segment to read from a position on: the one that holds it,
// or the next that there is.
func find(segments []*segment, at *position) (view, bool) {
	best := -1
	for i, s := range segments {
		last := i == len(segments)-1
		if at.seq == 0 && at.inside && s.name.epoch == at.epoch {
			best = i // beyond what there is of the epoch, if none reads
		}
		if at.reads(s, last) {
			return s.look(last), true
		}
	}
	if best < 0 {
		return view{}, false
	}
	return segments[best].look(best == len(segments)-1), true
}

// reads says whether the position is in segment s, or else before it, if no
// segment before s was the one.
func (p *position) reads(s *segment, last bool) bool {
	switch {
	case p.seq != 0 && s.name.seq == p.seq:
		return last || p.generation != s.generation || p.entry < s.sum.entries
	case p.seq != 0:
		return s.name.seq > p.seq
	case p.inside:
		return s.name.epoch == p.epoch && s.sum.next >= p.next
	}
	return last || s.sum.ordinal >= p.ordinal
}

// enter notes that the position is in the generation of segment s that v shows.
func (p *position) enter(v *view) {
	s := v.segment
	p.seq, p.generation, p.entry = s.name.seq, v.generation, 0
	if !p.inside || p.epoch != s.name.epoch {
		p.inside, p.epoch, p.next = true, s.name.epoch, s.header.first
		p.unknown, p.ended = false, false
	}
	if p.next < s.header.first {
		p.next, p.unknown = s.header.first, false
	}
}

// passed says whether an entry lies before the position.
func (p *position) passed(e *entry) bool {
	switch {
	case e.kind == Batch:
		return e.next() <= p.next || e.ordinalAfter() <= p.ordinal
	case e.ordinal < p.ordinal:
		return true
	case e.kind == End:
		return p.ended
	case e.count == 0:
		return e.first < p.next || e.first == p.next && p.unknown
	}
	return e.next() <= p.next
}

// pass moves the position behind an entry.
func (p *position) pass(e *entry) {
	if e.kind != End {
		p.unknown = e.kind == Gap && e.count == 0
	}
	p.ended = p.ended || e.kind == End
	p.next = max(p.next, e.next())
	p.ordinal = max(p.ordinal, e.ordinalAfter())
	p.arrival = max(p.arrival, e.arrival)
}
