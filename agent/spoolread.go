package agent

import (
	"errors"
	"fmt"
	"io"

	"poip/internal/journal"
	"poip/internal/wire"
)

// load reads back what is to be sent next, by one large read, and puts it into
// memory. The session's sender calls it.
func (s *spool) load(ep *epoch) error {
	s.reading.Lock()
	defer s.reading.Unlock()
	first, after, most, some := s.queue.part(ep)
	if !some {
		return nil
	}
	s.openReader(ep.hello.Epoch, first)
	chunk, err := s.reader.Next(most)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read spool: %w", err)
	}
	p := partly{spool: s, first: first, at: first, after: after}
	for i := range chunk.Entries {
		p.take(&chunk.Entries[i], chunk.Records)
	}
	if len(p.found) == 0 && (errors.Is(err, io.EOF) || p.beyond) {
		p.missing(after) // it should be there, and is not
		if len(p.found) == 0 {
			p.gap(lostEntry(after, 0))
		}
	}
	s.readerAt = p.at
	if p.beyond || err != nil {
		s.closeReader()
	}
	s.queue.restore(ep, p.found, p.at, p.unknown)
	s.queue.rouse()
	return nil
}

// openReader has the reader stand at a number.
func (s *spool) openReader(epoch wire.Epoch, first wire.PacketNumber) {
	if s.reader != nil && s.readerEpoch == epoch && s.readerAt == first {
		return
	}
	s.closeReader()
	s.reader, s.readerEpoch, s.readerAt = s.journal.ReadNumber(epoch, first), epoch, first
}

func (s *spool) closeReader() {
	if s.reader != nil {
		s.reader.Close()
		s.reader = nil
	}
}

// A partly makes items of what was read of a stretch.
type partly struct {
	spool            *spool
	first, at, after wire.PacketNumber // of the stretch: its front, what comes next, its end
	found            []restored
	unknown          bool // a gap of unknown count at the end was found
	beyond           bool // something was read that is behind the stretch
}

// take makes an item of an entry, as far as it belongs to the stretch.
func (p *partly) take(e *journal.Entry, records []byte) {
	switch {
	case p.beyond:
	case e.Epoch.ID != p.spool.readerEpoch || e.First > p.after, e.First == p.after && e.Next() > e.First:
		p.beyond = true
	case e.Kind == journal.End || e.Next() < p.at || e.Next() == p.at && e.First < p.at:
	case e.Kind == journal.Gap:
		p.missing(e.First)
		p.gap(*e)
	default:
		p.missing(e.First)
		p.batch(e, records[e.Offset:e.Offset+e.Length])
	}
}

// missing puts a gap where the numbers below next are not to be found.
func (p *partly) missing(next wire.PacketNumber) {
	if next <= p.at {
		return
	}
	p.gap(lostEntry(p.at, uint64(next-p.at)))
}

// lostEntry stands for what should be on disk; a count of 0 is unknown.
func lostEntry(first wire.PacketNumber, count uint64) journal.Entry {
	e := journal.Entry{Kind: journal.Gap, Cause: wire.CauseSpoolCorrupt, Lost: count}
	e.First = first
	return e
}

func (p *partly) gap(e journal.Entry) {
	next := min(e.Next(), p.after)
	e.First, e.Lost = p.at, uint64(next-p.at)
	it := &item{
		first: e.First, count: e.Lost, cause: e.Cause, earliest: e.Earliest, latest: e.Latest,
		entry: 1, fixed: true,
	}
	p.unknown = p.unknown || e.Lost == 0 && next == p.after
	p.add(it, e)
}

func (p *partly) batch(e *journal.Entry, records []byte) {
	count := uint64(e.Count)
	if e.First < p.at {
		gone := uint64(p.at - e.First)
		records, count = recordsFrom(records, gone), count-gone
	}
	it := p.spool.queue.blank(len(records))
	it.frame = append(it.frame, records...)
	it.first, it.count, it.earliest, it.latest = p.at, count, e.Earliest, e.Latest
	it.entry, it.fixed = 1, true
	p.add(it, *e)
}

func (p *partly) add(it *item, e journal.Entry) {
	p.at = it.after()
	p.found = append(p.found, restored{it, e})
}
