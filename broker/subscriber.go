package broker

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"poip/internal/pcap"
)

// terms are what a listener grants to its subscribers.
type terms struct {
	form       form
	disconnect bool // who falls behind the ring
	block      bool // the stream for who falls behind the ring
	start      start
	close      bool // when the streams have ended for good
}

// A subscriber is one analyst's connection: a cursor in each ring that it
// reads, and an outlet.
//
// Whoever writes to the outlet has the writer's role: the subscriber's own
// goroutine, or the intake, on the spot. The role is taken by claim and given
// back by release, which fails when something was published meanwhile; so no
// two write at a time, and nothing is ever left lying. Who has the role and
// cannot go on without waiting hands it over to the own goroutine.
type subscriber struct {
	// Set once before it starts.
	terms    terms
	outsets  outsets
	out      *outlet
	tally    *tally
	log      *slog.Logger
	arrivals *atomic.Uint64
	slot     int // unique in its listener
	remote   string
	since    time.Time
	visit    visit // who it is; see roster.go

	role   atomic.Int32
	handed chan struct{} // gives the role to the own goroutine; holds one
	order  atomic.Int32  // how to end; changes under mu, and only grows

	stalled   atomic.Bool  // waits for the socket
	progress  atomic.Int64 // when the socket last took something, nanoseconds since 1970
	sent      atomic.Uint64
	sentBytes atomic.Uint64
	skipped   atomic.Uint64 // what is pending at the end comes then

	inputEnded chan struct{} // the analyst sends no more
	drained    chan struct{} // the goroutine that reads has ended

	mu            sync.Mutex
	linked        bool          // it has a link type, and a file header
	link          pcap.LinkType // once linked
	header        []byte        // of the file, until it is adopted
	arriving      []*cursor     // until they are adopted
	cursors       []*cursor     // changed by the role's holder, who reads it without mu
	leftOut       []leftOut     // streams of other link types
	leftOutBefore uint64        // packets of those that it counts no more
	shed          uint64        // packets offered by cursors that are gone
	waiting       bool          // in await
	hurried       bool          // the outlet has a write deadline
	by            time.Time     // deadline of the order; zero: none

	news atomic.Bool // header or arriving are set

	// Owned by the role's holder.
	own           bool   // it is the subscriber's goroutine, which may wait for the disk
	lack          lack   // why nothing could be read
	inflight      uint64 // packets passed by the cursors, not yet sent whole
	inflightBytes uint64
	ended         bool // a stream that it read has gone for good
	err           error
	nextComplaint time.Time
}

// leftOut is a stream of another link type, whose packets are only counted.
type leftOut struct {
	head  *atomic.Uint64 // of its ring
	start uint64
}

func (o leftOut) packets() uint64 { return o.head.Load() - o.start }

// outcome says what the writer does next.
type outcome int

const (
	idle    outcome = iota // nothing to write
	more                   // perhaps there is more
	blocked                // the socket takes nothing
	over                   // the subscriber ends
	notHere                // it has to be read from disk, which only the own goroutine does
)

// lack says why nothing can be read from history.
type lack int

const (
	lackNothing lack = iota
	lackRole         // somebody else's goroutine does not wait for the disk
	lackDisk         // the disk has not got it yet
)

// nothing says what to do when nothing could be read.
func (s *subscriber) nothing(order int32) outcome {
	switch {
	case s.lack == lackRole:
		return notHere
	case s.lack == lackDisk && order != orderFinish && s.order.Load() < orderGone:
		return idle
	}
	return s.rest(order)
}

// step writes once, if there is anything to write. Here and below: for the
// holder of the role.
func (s *subscriber) step() outcome {
	order := s.order.Load()
	if s.err != nil || order >= orderGone {
		return over
	}
	clear, err := s.out.clear()
	if err != nil {
		s.err = err
		return over
	}
	if !clear {
		return blocked
	}
	s.credit()
	if order == orderCut {
		return over
	}
	if s.news.Load() {
		s.adopt()
		return more
	}
	return s.read(order)
}

// read writes what comes next.
func (s *subscriber) read(order int32) outcome {
	if len(s.cursors) > 1 {
		return s.readMerged(order)
	}
	if len(s.cursors) == 0 {
		return s.rest(order)
	}
	c := s.cursors[0]
	s.lack = lackNothing
	slab, ok := s.slab(c, everything)
	if !ok {
		return s.nothing(order)
	}
	whole := s.write(c, slab)
	slab.unpin(c.ring)
	if next := s.written(whole); next != more || s.out.tls != nil || c.packets != c.ring.head.Load() {
		return next
	}
	return s.rest(order)
}

// slab returns what there is behind a cursor, of batches that arrived before
// the given number.
func (s *subscriber) slab(c *cursor, before uint64) (slab, bool) {
	v, r := s.view(c, before)
	if v.segment == nil {
		return slab{}, false
	}
	out := r.render(v)
	if c.offset == unresolved {
		c.offset = out.resolve(c.packets)
	}
	return out, true
}

// view returns what there is behind a cursor, in memory or on disk, and the
// rendition that is for it.
func (s *subscriber) view(c *cursor, before uint64) (view, *rendition) {
	for {
		v, skipped := c.ring.view(c, before)
		if skipped > 0 && !s.skip(skipped, skipOverrun) {
			if v.segment != nil {
				c.ring.unpin(v.segment)
			}
			return view{}, nil
		}
		if !c.away {
			c.past.rest()
			return v, c.rendition
		}
		if !s.recall(c) {
			return view{}, nil
		}
		if c.away {
			return c.past.view(c.packets, before), &c.past.rendition
		}
	}
}

// write offers the outlet what the slab has behind the cursor, and says
// whether it was taken whole.
func (s *subscriber) write(c *cursor, slab slab) bool {
	from, packets := c.offset, c.packets
	n, err := s.out.offer(slab.data[from:])
	if err != nil {
		s.err = err
		return false
	}
	at := from + n
	t := slab.tearAt(from, packets, at)
	if t.end > at {
		s.out.keep(slab.data[at:t.end])
	}
	c.ring.advance(c, slab.view.segment, t.end, t.behind)
	s.inflight += t.behind - packets
	s.inflightBytes += uint64(t.end - from)
	if s.out.tls == nil {
		s.creditBut(t.behind-t.whole, uint64(t.end-t.begin))
	}
	if n > 0 {
		s.progress.Store(time.Now().UnixNano())
	}
	return at == len(slab.data)
}

// credit counts what is in flight as sent: the socket has it.
func (s *subscriber) credit() {
	if s.inflight > 0 {
		s.progress.Store(time.Now().UnixNano())
		s.creditBut(0, 0)
	}
}

// creditBut leaves packets and bytes of them in flight.
func (s *subscriber) creditBut(packets, bytes uint64) {
	sent := s.inflight - packets
	s.sent.Add(sent)
	s.tally.sent.Add(sent)
	s.sentBytes.Add(s.inflightBytes - bytes)
	s.tally.sentBytes.Add(s.inflightBytes - bytes)
	s.inflight = packets
	s.inflightBytes = bytes
}

// skip counts packets that this reader cannot have, and says whether the
// reader may stay.
func (s *subscriber) skip(packets uint64, why skip) bool {
	s.skipped.Add(packets)
	s.tally.skipped[why].Add(packets)
	if why == skipOverrun && s.terms.disconnect {
		s.overrun()
		return false
	}
	if now := time.Now(); why != skipLinkType && now.After(s.nextComplaint) {
		s.nextComplaint = now.Add(10 * time.Second)
		s.log.Warn("packets skipped for an analyst", "cause", why.String(), "skipped", packets, "skipped_in_all", s.skipped.Load())
	}
	return true
}

// isWell says whether the analyst takes what it is given.
func (s *subscriber) isWell(now time.Time) bool {
	return !s.stalled.Load() || now.UnixNano()-s.progress.Load() < int64(20*time.Millisecond)
}

// isStarved says whether it is we who do not write, although the analyst would
// take it.
func (s *subscriber) isStarved() bool { return !s.stalled.Load() || s.out.writable() }

// adopt takes over the file header and cursors that have been added.
func (s *subscriber) adopt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news.Store(false)
	if s.header != nil {
		s.out.keep(s.header)
		s.header = nil
	}
	s.cursors = append(s.cursors, s.arriving...)
	s.arriving = nil
}

// rest decides what to do when everything has been written.
func (s *subscriber) rest(order int32) outcome {
	if s.order.Load() >= orderGone {
		return over // by skip
	}
	for _, c := range s.cursors {
		if c.ring.replaced.Load() && c.packets == c.ring.head.Load() {
			s.drop(c)
			return more
		}
	}
	if order == orderFinish || s.terms.close && s.allEnded() {
		return over
	}
	return idle
}

// drop lets go of a cursor whose ring gets nothing any more, and so of the ring.
func (s *subscriber) drop(c *cursor) {
	s.ended = true
	c.ring.readers.remove(s)
	c.ring.detach(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shed += c.offered()
	s.cursors = slices.DeleteFunc(s.cursors, func(o *cursor) bool { return o == c })
}

// allEnded says whether streams have ended and been read to their end, and
// none goes on. One that was not there since the relay started keeps nobody.
func (s *subscriber) allEnded() bool {
	ended := s.ended
	for _, c := range s.cursors {
		switch {
		case c.ring.over.Load() && c.packets == c.ring.head.Load():
			ended = true
		case c.ring.begun.Load():
			return false
		}
	}
	return ended
}
