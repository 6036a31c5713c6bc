package broker

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"poip/internal/pcap"
)

// segmentLen is how many bytes of records a segment holds. Smaller ones cost
// rate, larger ones win nothing.
const segmentLen = 256 << 10

// A ring is the memory tail of one stream in one link type: the records of
// its latest batches, in segments. One session fills it, any number of
// cursors read it. A stream whose link type changes gets a new ring.
//
// Packets are counted; a packet's count is its ordinal. It is not the agent's
// packet number. Where the stream has a history, the ring counts on from what
// that has taken in already, and so an ordinal is a place in both. Otherwise
// the ring counts from 0.
type ring struct {
	link     pcap.LinkType
	history  *history       // nil: what leaves the ring is gone
	begin    uint64         // ordinal of its first packet
	arrivals *atomic.Uint64 // stamp of the latest batch of all rings; see stamp
	coming   atomic.Uint64  // what the stamp of a batch that is being taken in is at least; 0: there is none
	head     *atomic.Uint64 // ordinal of the next packet; changes under mu
	readers  fanout         // who is told of new packets

	begun    atomic.Bool // a session has come to fill it since the relay started
	over     atomic.Bool // its stream has ended for good, as far as anybody knows
	replaced atomic.Bool // its stream goes on in another ring

	// Owned by the session that fills the ring.
	current *segment

	mu         sync.Mutex
	limit      int       // bytes to hold
	held       int       // bytes of the segments
	overfull   time.Time // since when blocking readers make it larger than limit; zero: they do not
	segments   []*segment
	spare      []*segment // to be filled again
	nextSeq    uint64
	bytes      uint64 // of records, since the ring began
	cursors    []*cursor
	renditions map[form]*rendition
	moved      chan struct{} // a cursor has passed the end of a segment; holds one
}

// A segment is a piece of a ring. What is below filled never changes until
// nobody refers to the segment any more.
type segment struct {
	refs  atomic.Int32 // the ring's own and one for each view
	seq   uint64       // counts the segments of the ring
	base  uint64       // ordinal of the first packet
	micro bool         // times are in microseconds already; nanos has the rest of them
	buf   []byte

	// Guarded by ring.mu. The session that fills the ring is the only writer
	// and reads without it. Marks and nanos are only ever appended to.
	filled int
	marks  []mark
	nanos  []uint16 // for each packet, 0 to 999
}

// A mark stands behind each batch of a segment.
type mark struct {
	end     uint32 // offset in the segment
	packets uint32 // of the segment up to here
	longest uint32 // captured length up to here
	arrival uint64 // when the batch arrived; see stamp
}

// packets is how many the segment holds; for holders of ring.mu.
func (s *segment) packets() uint64 {
	if len(s.marks) == 0 {
		return 0
	}
	return uint64(s.marks[len(s.marks)-1].packets)
}

// stamp is the time of an arrival, in nanoseconds since 1970 by our own clock.
// No two are the same, and none is less than the one before, whatever the clock
// does: so stamps order the batches of all streams, in memory and on disk.
func stamp(arrivals *atomic.Uint64) uint64 {
	now := uint64(max(time.Now().UnixNano(), 1))
	for {
		last := arrivals.Load()
		next := max(last+1, now)
		if arrivals.CompareAndSwap(last, next) {
			return next
		}
	}
}

func newRing(link pcap.LinkType, limit int, arrivals *atomic.Uint64) *ring {
	return &ring{
		link:       link,
		limit:      limit,
		arrivals:   arrivals,
		head:       new(atomic.Uint64),
		renditions: make(map[form]*rendition),
		moved:      make(chan struct{}, 1),
	}
}

// newTail returns the ring of a stream whose body is a history.
func newTail(link pcap.LinkType, limit int, arrivals *atomic.Uint64, h *history) *ring {
	r := newRing(link, limit, arrivals)
	if h != nil {
		r.history, r.begin = h, h.journal.Next()
		r.head.Store(r.begin)
	}
	return r
}

// announce returns the stamp of a batch that is to be committed with it soon.
// Until then readers of several rings wait for what comes here.
func (r *ring) announce() uint64 {
	r.coming.Store(r.arrivals.Load() + 1)
	return stamp(r.arrivals)
}

// reserve returns room for the n bytes of records of one batch. Nobody sees
// what is written there before commit; the next reserve gives it up.
func (r *ring) reserve(n int) []byte {
	if r.current == nil || len(r.current.buf)-r.current.filled < n {
		tell(r.rotate(max(n, segmentLen)))
	}
	at := r.current.filled
	return r.current.buf[at : at+n : at+n]
}

// commit makes the n bytes that were reserved last visible to the cursors.
// They are whole records.
func (r *ring) commit(n, packets int) { r.commitAs(n, packets, 0) }

// commitAs is commit for what has a stamp already, by announce, unless that is 0.
func (r *ring) commitAs(n, packets int, arrival uint64) {
	s := r.current
	nanos, longest := s.settle(s.buf[s.filled : s.filled+n])
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(s.marks) > 0 {
		longest = max(longest, s.marks[len(s.marks)-1].longest)
	}
	if arrival == 0 {
		arrival = stamp(r.arrivals)
	} else {
		defer r.coming.Store(0)
	}
	s.filled += n
	s.nanos = nanos
	s.marks = append(s.marks, mark{
		end:     uint32(s.filled),
		packets: uint32(s.packets()) + uint32(packets),
		longest: longest,
		arrival: arrival,
	})
	r.head.Add(uint64(packets))
	r.bytes += uint64(n)
}

// settle gives records the form that the segment has, and finds the longest
// captured length. Most listeners want microseconds: their records are made
// here, in place, and never copied.
func (s *segment) settle(records []byte) (nanos []uint16, longest uint32) {
	le := binary.LittleEndian
	nanos = s.nanos
	for len(records) > 0 {
		header := records[:pcap.RecordHeaderLen:pcap.RecordHeaderLen]
		captured := le.Uint32(header[8:])
		longest = max(longest, captured)
		if s.micro {
			nsec := le.Uint32(header[4:])
			le.PutUint32(header[4:], nsec/1000)
			nanos = append(nanos, uint16(nsec%1000))
		}
		records = records[pcap.RecordHeaderLen+int(captured):]
	}
	return nanos, longest
}

// rotate begins a segment of size bytes. It returns the cursors that have
// lost packets by that and want to know.
func (r *ring) rotate(size int) []*cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	overrun := r.makeRoom(size)
	s := r.takeSegment(size)
	s.seq, s.base, s.micro = r.nextSeq, r.head.Load(), r.wantsMicro()
	r.nextSeq++
	r.segments = append(r.segments, s)
	r.held += len(s.buf)
	r.current = s
	return overrun
}

// wantsMicro says whether the next segment shall be in microseconds: unless
// most of the readers want nanoseconds.
func (r *ring) wantsMicro() bool {
	balance := 0
	for f, n := range r.renditions {
		if f.nano {
			balance -= n.users
		} else {
			balance += n.users
		}
	}
	return balance >= 0
}

func (r *ring) makeRoom(size int) (overrun []*cursor) {
	for len(r.segments) > 0 && r.held+size > r.limit && r.holder() == nil {
		overrun = append(overrun, r.evict()...)
	}
	return overrun
}

// holder returns a cursor that keeps the oldest segment from being evicted.
// Where there is a history, that is what keeps it.
func (r *ring) holder() *cursor {
	if r.history != nil {
		return nil
	}
	end := r.segments[0].base + r.segments[0].packets()
	for _, c := range r.cursors {
		if c.blocks && c.packets < end {
			return c
		}
	}
	return nil
}

// evict drops the oldest segment.
func (r *ring) evict() (overrun []*cursor) {
	s := r.segments[0]
	end := s.base + s.packets()
	for _, c := range r.cursors {
		if c.owner != nil && c.packets < end && r.history == nil {
			overrun = append(overrun, c)
		}
	}
	r.segments = append(r.segments[:0], r.segments[1:]...) // a few hundred pointers, once for 256 KiB
	r.held -= len(s.buf)
	if s.refs.Add(-1) == 0 {
		r.keepSpare(s)
	}
	return overrun
}

func (r *ring) takeSegment(size int) *segment {
	var s *segment
	if n := len(r.spare); n > 0 && size == segmentLen {
		s, r.spare = r.spare[n-1], r.spare[:n-1]
		s.filled, s.marks, s.nanos = 0, s.marks[:0], s.nanos[:0]
	} else {
		s = &segment{buf: make([]byte, size)}
	}
	s.refs.Store(1)
	return s
}

// keepSpare keeps a segment that nobody refers to; few, for there are more
// only after the limit was lowered.
func (r *ring) keepSpare(s *segment) {
	if len(s.buf) == segmentLen && len(r.spare) < 4 {
		r.spare = append(r.spare, s)
	}
}

// unpin ends a view's hold on a segment.
func (r *ring) unpin(s *segment) {
	if s.refs.Add(-1) == 0 {
		r.mu.Lock()
		r.keepSpare(s)
		r.mu.Unlock()
	}
}

// setLimit changes how many bytes the ring holds; in force from the next
// segment on.
func (r *ring) setLimit(limit int) {
	r.mu.Lock()
	r.limit = limit
	r.mu.Unlock()
}

// full says whether a batch of n bytes begins a segment for which another one
// has to go.
func (r *ring) full(n int) bool {
	if r.current != nil && len(r.current.buf)-r.current.filled >= n {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.segments) > 0 && r.held+max(n, segmentLen) > r.limit
}

// danger says whether the end of the oldest segment would overrun a reader who
// waits for nothing but our own processor, and whether it would overrun most of
// those who are well: analysts who take what they are given.
func (r *ring) danger(now time.Time) (starved, most bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.segments[0]
	end := oldest.base + oldest.packets()
	well, behind := 0, 0
	for _, c := range r.cursors {
		if c.owner == nil || c.blocks && r.history == nil || c.packets < oldest.base && r.history != nil {
			continue
		}
		isBehind := c.packets < end
		if c.owner.isWell(now) {
			well++
			if isBehind {
				behind++
			}
		}
		// Who has lost packets already is not worth waiting for.
		if isBehind && c.seq == oldest.seq && !starved {
			starved = c.owner.isStarved()
		}
	}
	return starved, 2*behind > well
}

// trim frees what blocking readers have left behind, where they had made the
// ring grow beyond its limit. It returns the one that still does.
func (r *ring) trim() (holder *cursor, since time.Time) {
	var overrun []*cursor
	defer func() { tell(overrun) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.held > r.limit && len(r.segments) > 1 {
		if c := r.holder(); c != nil {
			if r.overfull.IsZero() {
				r.overfull = time.Now()
			}
			return c, r.overfull
		}
		overrun = append(overrun, r.evict()...)
	}
	r.overfull = time.Time{}
	return nil, time.Time{}
}

// excess is by how many bytes blocking readers have made the ring grow.
func (r *ring) excess() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held - r.limit
}

func tell(overrun []*cursor) {
	for _, c := range overrun {
		c.owner.overrun()
	}
}

// occupancy is what the ring holds now.
func (r *ring) occupancy() (packets, bytes uint64, memory, limit int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.segments {
		bytes += uint64(s.filled)
		packets += s.packets()
	}
	return packets, bytes, r.held, r.limit
}

// retire says that the ring gets nothing any more. Its memory goes with its
// last reader, or by empty.
func (r *ring) retire() {
	r.over.Store(true)
	r.replaced.Store(true)
	r.mu.Lock()
	r.giveUp()
	r.mu.Unlock()
	r.readers.all()
}

// giveUp frees the memory of a ring that gets nothing any more and that nobody
// reads; for holders of mu.
func (r *ring) giveUp() {
	if r.replaced.Load() && len(r.cursors) == 0 {
		r.evictAll()
	}
}

// empty gives up all that the ring holds, whoever reads it.
func (r *ring) empty() {
	r.mu.Lock()
	overrun := r.evictAll()
	r.mu.Unlock()
	tell(overrun)
}

func (r *ring) evictAll() (overrun []*cursor) {
	for len(r.segments) > 0 {
		overrun = append(overrun, r.evict()...)
	}
	r.current, r.spare = nil, nil
	return overrun
}
