package broker

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"poip/internal/journal"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// This file is how a reader gets from history what its ring has no more.

const (
	// How much is read from disk at once, and what the buffers of all who read
	// may take together.
	mostPastRead  = 1 << 20
	leastPastRead = 64 << 10
	pastBudget    = 64 << 20

	// pastPause is for how long a reader leaves a history alone that could not
	// be read.
	pastPause = time.Second
)

// A past is how one cursor reads the history of its stream: a chunk at a time,
// by large reads, and only on the subscriber's own goroutine. From a chunk it
// shows runs of batches that follow one another as segments of its own, so that
// everything else is as with a segment of the ring.
//
// It is owned by the holder of the subscriber's writer role.
type past struct {
	// Set once.
	history *history
	link    pcap.LinkType

	reader    *journal.Reader // nil: not reading
	entries   []journal.Entry // of the chunk at hand, that come behind the run
	records   []byte          // of the chunk
	run       segment         // the batches at hand
	rendition rendition       // of the run, where the listener wants another form
	damaged   uint64          // packets in gaps that damage has made, and that have not been missed yet
}

func (h *history) newPast(link pcap.LinkType, f form) *past {
	h.archive.use(h)
	p := &past{history: h, link: link, rendition: rendition{form: f, keep: 1}}
	p.run.micro = !f.nano
	p.run.refs.Store(1) // it never goes to a ring
	return p
}

// end gives up the history.
func (p *past) end() {
	p.rest()
	p.history.archive.leave(p.history)
}

// rest ends the reading for now.
func (p *past) rest() {
	if p == nil || p.reader == nil {
		return
	}
	p.reader.Close()
	p.history.archive.reading.Add(-1)
	p.reader, p.entries, p.records, p.damaged = nil, nil, nil, 0
	p.run.buf, p.run.marks, p.run.filled = nil, p.run.marks[:0], 0
	p.rendition.pages = nil
}

// covers says whether the run holds a packet.
func (p *past) covers(ordinal uint64) bool {
	return ordinal >= p.run.base && ordinal < p.run.base+p.run.packets()
}

// view returns what the run has behind a packet that it covers, of batches that
// arrived before the given time.
func (p *past) view(ordinal, before uint64) view {
	n := len(p.run.marks)
	for n > 0 && p.run.marks[n-1].arrival >= before {
		n--
	}
	if n == 0 || p.run.base+uint64(p.run.marks[n-1].packets) <= ordinal {
		return view{}
	}
	p.run.refs.Add(1)
	return view{segment: &p.run, marks: p.run.marks[:n]}
}

// arrival is when the batch arrived that holds a packet that the run covers.
func (p *past) arrival(ordinal uint64) uint64 {
	return p.run.marks[markAfter(p.run.marks, uint32(ordinal-p.run.base))].arrival
}

// A passage is packets that a reader passes over, and why.
type passage struct {
	packets uint64
	why     skip
}

// seek makes the run be the one that holds a packet, which is below head, or
// returns what has to be passed over first. It returns io.EOF when the history
// has nothing more yet.
func (p *past) seek(ordinal, head uint64) (passage, error) {
	if p.reader == nil {
		p.reader = p.history.journal.ReadOrdinal(ordinal)
		p.history.archive.reading.Add(1)
	}
	for {
		for len(p.entries) > 0 {
			e := &p.entries[0]
			switch {
			case e.Ordinal > ordinal:
				return p.missed(min(e.Ordinal, head) - ordinal), nil
			case e.Kind == journal.Batch && e.Ordinal+uint64(e.Count) > ordinal:
				return p.found(ordinal, head), nil
			case e.Kind == journal.Gap && e.Cause == wire.CauseHistoryCorrupt:
				p.damaged += e.Lost
			}
			p.entries = p.entries[1:]
		}
		durable := p.history.journal.Durable().Ordinal // what is only written may be taken back, and written again
		chunk, err := p.reader.Next(p.history.archive.pastRead())
		switch {
		case errors.Is(err, io.EOF) && durable > ordinal: // it should be there
			return p.missed(min(durable, head) - ordinal), nil
		case err != nil:
			return passage{}, err
		}
		p.entries, p.records = chunk.Entries, chunk.Records
	}
}

// found takes the run of batches at the head of the entries, or passes over
// them if they have another link type.
func (p *past) found(ordinal, head uint64) passage {
	first := &p.entries[0]
	if first.Epoch.LinkType != p.link {
		return passage{min(first.Ordinal+uint64(first.Count), head) - ordinal, skipLinkType}
	}
	s := &p.run
	s.seq++
	s.base, s.marks, s.buf = first.Ordinal, s.marks[:0], nil
	from, at, next := first.Offset, first.Offset, first.Ordinal
	longest := uint32(0)
	for len(p.entries) > 0 {
		e := &p.entries[0]
		if e.Kind != journal.Batch || e.Ordinal != next || e.Offset != at || next >= head {
			break
		}
		at, next = at+e.Length, next+uint64(e.Count)
		longest = max(longest, settleRecords(p.records[e.Offset:at], s.micro))
		s.marks = append(s.marks, mark{
			end: uint32(at - from), packets: uint32(next - s.base), longest: longest, arrival: uint64(e.Arrival),
		})
		p.entries = p.entries[1:]
	}
	s.buf, s.filled = p.records[from:at:at], at-from
	return passage{}
}

// settleRecords gives records of our own their form in place, and returns the
// longest captured length.
func settleRecords(records []byte, micro bool) (longest uint32) {
	le := binary.LittleEndian
	for len(records) > 0 {
		header := records[:pcap.RecordHeaderLen:pcap.RecordHeaderLen]
		captured := le.Uint32(header[8:])
		longest = max(longest, captured)
		if micro {
			le.PutUint32(header[4:], le.Uint32(header[4:])/1000)
		}
		records = records[pcap.RecordHeaderLen+int(captured):]
	}
	return longest
}

// missed says why the history has so many packets no more.
func (p *past) missed(packets uint64) passage {
	if p.damaged > 0 {
		packets = min(packets, p.damaged)
		p.damaged -= packets
		return passage{packets, skipCorrupt}
	}
	return passage{packets, skipOverrun}
}

// recall makes ready what comes behind a cursor that is away: on return that is
// in the cursor's run, or the cursor is back in the ring. It returns false when
// nothing can be read now; lack says why. For the holder of the writer's role.
func (s *subscriber) recall(c *cursor) bool {
	registered := false
	for c.away && !c.past.covers(c.packets) {
		if !s.own {
			s.lack = lackRole
			return false
		}
		if !s.inTime() {
			return false
		}
		over, err := c.past.seek(c.packets, c.ring.head.Load())
		switch {
		case errors.Is(err, io.EOF):
			c.parched = true
			c.ring.relocate(c) // perhaps memory has it
			if c.away && registered {
				if c.past.history.trouble() != nil {
					c.past.rest() // a full disk may need the room
				}
				s.lack = lackDisk
				return false
			}
			c.past.history.awaitMore(s) // and then look once more
			registered = true
		case err != nil:
			s.unreadable(c, err)
			return false
		case over.packets > 0:
			c.ring.pass(c, over.packets)
			if !s.skip(over.packets, over.why) {
				return false
			}
		default:
			c.offset, c.parched = unresolved, false
		}
	}
	return true
}

// readsPast says whether a history is open for one of the cursors. For the
// holder of the writer's role.
func (s *subscriber) readsPast() bool {
	return slices.ContainsFunc(s.cursors, func(c *cursor) bool { return c.past != nil && c.past.reader != nil })
}

// restPast lets go of all histories that are open. Recall opens them again,
// where the cursors are.
func (s *subscriber) restPast() {
	for _, c := range s.cursors {
		c.past.rest()
	}
}

// inTime says whether a subscriber may read on that has perhaps been told to
// finish.
func (s *subscriber) inTime() bool {
	if s.order.Load() != orderFinish {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by.IsZero() || time.Now().Before(s.by)
}

// unreadable is called when the disk cannot be read. We come back to it.
func (s *subscriber) unreadable(c *cursor, err error) {
	s.log.Error("history cannot be read; trying again", "stream", c.past.history.name.String(), "error", err)
	c.past.rest()
	s.lack = lackDisk
	time.AfterFunc(pastPause, s.notify)
}
