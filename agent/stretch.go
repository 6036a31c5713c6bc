package agent

import (
	"poip/internal/journal"
	"poip/internal/wire"
)

// A stretch is a part of an epoch that is on disk only: the item that has it
// says which numbers. It grows at its end, as batches leave memory, and goes
// at its front, as they are read back to be sent.
//
// What it stands for was counted when it was captured. Of an epoch that was
// recovered only the packets are known beforehand, not the gaps between them.
type stretch struct {
	packets   uint64 // in batches, as far as we know
	unknown   bool   // a gap of unknown count stands at its end
	recovered bool
	dropped   uint64 // recovered packets that became gaps since, for lack of room
	told      uint64 // packets in gaps of damage that was counted: they were read back once before
}

// passBatch accounts for packets that are in memory again.
func (s *stretch) passBatch(l *ledger, count uint64) {
	known := min(count, s.packets)
	s.packets -= known
	l.captured += count - known
	l.recovered += count - known
}

// passGap accounts for a gap that was found where packets might have been.
func (s *stretch) passGap(l *ledger, g *journal.Entry) {
	count := g.Lost
	switch {
	case g.Cause == wire.CauseSpoolCorrupt:
		ours := min(count, s.told)
		s.told, count = s.told-ours, count-ours
		known := min(count, s.packets)
		s.packets -= known
		l.captured += count - known
		l.lose(count, g.Cause)
	case s.recovered:
		if g.Cause == wire.CauseSpoolOverflow {
			ours := min(count, s.dropped)
			s.dropped, count = s.dropped-ours, count-ours
		}
		l.captured += count
		l.lose(count, g.Cause)
		if g.Lost == 0 {
			l.unknown[cell(g.Cause)]++
		}
	}
}

// drop accounts for packets that became a gap on disk.
func (s *stretch) drop(l *ledger, packets uint64) {
	packets = min(packets, s.packets)
	s.packets -= packets
	if s.recovered {
		s.dropped += packets
	}
	l.lose(packets, wire.CauseSpoolOverflow)
}

// part says what of the stretch is to be read next, and how many bytes of it.
func (q *queue) part(ep *epoch) (first, after wire.PacketNumber, most int, some bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := ep.disk
	if d == nil || d != ep.unsent {
		return 0, 0, 0, false
	}
	most = int(min(q.roomToSend(), q.memory.limit/8/q.memory.streams.Load(), mostRead))
	return d.first, d.after(), most, true
}

// mostRead is what is read from disk at once, in bytes, unless a single batch
// is more. All streams of a capture read no more than an eighth of its memory:
// what is read cannot leave that until it is sent.
const mostRead = 1 << 20

// blank returns an item with a buffer for n bytes of records.
func (q *queue) blank(n int) *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.item()
	it.frame = q.buffers.get(wire.BatchPrefixLen + n)[:wire.BatchPrefixLen]
	return it
}

// restore puts items that were read back from disk where the stretch's front
// was, and accounts for them: up to number upTo, and with unknown the gap of
// unknown count there as well.
func (q *queue) restore(ep *epoch, found []restored, upTo wire.PacketNumber, unknown bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := ep.disk
	if len(found) == 0 {
		return
	}
	rest := *d
	rest.first, rest.count = upTo, uint64(d.after()-upTo)
	rest.earliest = found[len(found)-1].item.latest
	if unknown && rest.count == 0 {
		rest.stretch.unknown = false
	}
	for _, f := range found {
		if f.item.isBatch() {
			rest.stretch.passBatch(&ep.ledger, f.item.count)
			q.charge(f.item.size())
		} else {
			rest.stretch.passGap(&ep.ledger, &f.entry)
		}
	}
	q.link(ep, d, found, rest)
}

// link puts the items in the place of the stretch, and what is left of that
// behind them. The first takes the stretch's own link of the chain.
func (q *queue) link(ep *epoch, d *item, found []restored, rest item) {
	*d = *found[0].item
	*found[0].item = item{next: q.spare}
	q.spare = found[0].item
	last := d
	for _, f := range found[1:] {
		last.next = f.item
		last = f.item
	}
	ep.disk, last.next = nil, rest.next
	if rest.count > 0 || rest.stretch.unknown {
		ep.disk = q.item()
		*ep.disk = rest
		last.next = ep.disk
		last = ep.disk
	} else {
		ep.ledger.acknowledged += rest.stretch.packets // a relay had them before we began
	}
	if last.next == nil {
		ep.tail = last
	}
}

// A restored item is one that was read back, and the entry that it was made of.
type restored struct {
	item  *item
	entry journal.Entry
}
