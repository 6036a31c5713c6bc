package journal

import (
	"cmp"
	"slices"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// Dropped is what had to make room.
type Dropped struct {
	Gaps    []wire.Gap // that cover the segment from its first number to its last
	Packets uint64     // of the segment
	Bytes   int64      // that were freed
}

// DropOldest makes room in a spool: the packets of the oldest segment of the
// epoch that holds any, none below from and none from to on, become gaps of
// cause spool_overflow; gaps keep theirs. What is in quarantine goes first; then
// bytes are freed, and no packets. It waits for the disk.
func (j *Journal) DropOldest(epoch wire.Epoch, from, to wire.PacketNumber) Dropped {
	j.rewriting.Lock()
	defer j.rewriting.Unlock()
	s, freed := j.droppable(epoch, from, to)
	if s == nil {
		return Dropped{Bytes: freed}
	}
	return j.drop(s)
}

// droppable finds the segment to drop, and has it ended if it is being written.
func (j *Journal) droppable(epoch wire.Epoch, from, to wire.PacketNumber) (*segment, int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.kept) > 0 {
		return nil, j.expel()
	}
	for _, s := range j.segments {
		if s.name.epoch != epoch || s.header.first < from || s.sum.packets == 0 {
			continue
		}
		if s == j.tail && !j.retireTail() || s.gone || s.sum.next > to {
			return nil, 0
		}
		return s, 0
	}
	return nil, 0
}

// Retire ends the segment that is being written, so that all that is in any
// segment is durable. It returns false if the disk does not let it.
func (j *Journal) Retire() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tail == nil || j.retireTail()
}

// retireTail is Retire where there is a tail; for holders of mu.
func (j *Journal) retireTail() bool {
	s := j.tail
	for rounds := j.rounds; s == j.tail && j.rounds < rounds+3 && !j.closing; {
		j.retire = true
		j.hurry()
		j.moved.Wait()
	}
	return s != j.tail
}

// drop makes a segment gap-only, or adds its gaps to the gap-only one before
// it.
func (j *Journal) drop(s *segment) Dropped {
	j.mu.Lock()
	d := Dropped{Packets: s.sum.packets}
	victim, former := j.contents(s), j.gapsBefore(s)
	into := victim
	if former != nil {
		into = j.contents(former)
	}
	before := s.bytes()
	if former != nil {
		before += former.bytes()
	}
	j.mu.Unlock()

	entries := victim.gaps()
	for i := range entries {
		if entries[i].kind == Gap {
			d.Gaps = append(d.Gaps, entries[i].gap())
		}
	}
	if former != nil {
		told := into.gaps()
		entries = append(told, beyond(told, entries)...)
	}
	if victim.impossible != nil || into.impossible != nil {
		j.log.Warn("segment cannot be dropped now", "segment", s.name.String(), "err", cmp.Or(victim.impossible, into.impossible))
		return Dropped{}
	}
	sum := j.makeGapsOnly(into, victim, mergeGaps(entries))
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case sum == nil: // the journal takes as much as before, and a caller that goes by that is not to go on for ever
		return Dropped{}
	case s.gone: // its packets were needed no more: none is lost, and nothing is to tell of them
		if former == nil || former.gone {
			j.doomed = append(j.doomed, into.found.name.index())
			j.signal()
		}
		return Dropped{Bytes: before}
	case former == nil:
		s.adopt(into.header.generation+1, sum)
		s.noPackets = true
		d.Bytes = before - s.bytes()
		return d
	}
	if !former.gone {
		former.adopt(into.header.generation+1, sum)
	}
	j.doom(slices.Index(j.segments, s))
	d.Bytes = before - former.bytes()
	return d
}

// adopt takes over another generation; for holders of Journal.mu.
func (s *segment) adopt(generation uint32, sum *summary) {
	s.generation, s.sum = generation, *sum
	s.sealed, s.suspect = true, false
}

// contents prepares to look at what a segment holds; for holders of mu.
func (j *Journal) contents(s *segment) *examination {
	h := s.header
	h.generation = s.generation
	if s.noPackets {
		h.flags |= flagNoPackets
	}
	return &examination{
		fs:      j.fs,
		key:     j.o.Key,
		damage:  j.o.Damage,
		found:   &found{name: s.name, index: true, generations: []uint32{s.generation}},
		before:  place{epoch: &h.epoch, next: h.first, ordinal: h.ordinal, arrival: h.arrival, latest: h.latest},
		whole:   true,
		limit:   s.sum.next,
		limited: true,
		known:   &known{header: h, sum: s.sum},
	}
}

// gaps returns what a segment holds, all of it as gaps.
func (x *examination) gaps() []entry {
	x.trusting = true // nobody will read the records
	x.examine()
	x.complete()
	for i := range x.entries {
		if e := &x.entries[i]; e.kind == Batch {
			*e = *e.lost(wire.CauseSpoolOverflow)
		}
		x.entries[i].offset = pcap.FileHeaderLen
	}
	return x.entries
}

// gapsBefore returns the segment before s if it consists of gaps and s
// continues it; for holders of mu.
func (j *Journal) gapsBefore(s *segment) *segment {
	for i, other := range j.segments {
		if other != s || i == 0 {
			continue
		}
		f := j.segments[i-1]
		if f.noPackets && f.name.epoch == s.name.epoch && f.sum.next == s.header.first && s.header.flags&flagJump == 0 && f.header.epoch == s.header.epoch {
			return f
		}
	}
	return nil
}

// beyond leaves out of a segment's gaps those of unknown count that it begins
// with and the one before ends with: it was merged into that one before, and the
// power failed before it was deleted.
func beyond(former, entries []entry) []entry {
	same := func(a, b entry) bool { return a.kind == Gap && a.count == 0 && a.gap() == b.gap() }
	for n := min(len(former), len(entries)); n > 0; n-- {
		if slices.EqualFunc(former[len(former)-n:], entries[:n], same) {
			return entries[n:]
		}
	}
	return entries
}

// mergeGaps makes one gap of neighbors with the same cause.
func mergeGaps(entries []entry) []entry {
	merged := entries[:0]
	for _, e := range entries {
		n := len(merged)
		if n > 0 && e.kind == Gap && e.count > 0 && merged[n-1].kind == Gap && merged[n-1].count > 0 && merged[n-1].cause == e.cause {
			g := &merged[n-1]
			g.count += e.count
			g.earliest, g.latest = min(g.earliest, e.earliest), max(g.latest, e.latest)
			g.arrival = max(g.arrival, e.arrival)
			continue
		}
		merged = append(merged, e)
	}
	return merged
}

// makeGapsOnly replaces a segment by gaps. Where there is no room even for
// that, the packets of the victim go first: should the power fail in between,
// they are found missing, which makes gaps as well, of another cause.
func (j *Journal) makeGapsOnly(into, victim *examination, entries []entry) *summary {
	m := &remake{fs: j.fs, noSync: j.o.NoSync, old: into.known.header, header: into.known.header, entries: entries}
	m.header.generation++
	m.header.flags |= flagNoPackets
	m.sum = m.header.summary()
	for i := range entries {
		m.sum.add(&entries[i])
	}
	m.sum.ordinal, m.sum.ending = victim.known.sum.ordinal, victim.known.sum.ending
	m.sum.lastArrival = max(m.sum.lastArrival, victim.known.sum.lastArrival)
	err := m.make()
	if err != nil && IsFull(err) {
		setAside(j.fs, victim.found.name.packets(victim.known.header.generation), false)
		err = m.make()
	}
	if err != nil {
		j.log.Warn("dropped segment cannot be marked", "segment", victim.found.name.String(), "err", err)
		return nil
	}
	return &m.sum
}
