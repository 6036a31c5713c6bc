package agent

import (
	"sync"

	"poip/internal/wire"
)

// A queue holds what one stream has captured until a relay has acknowledged
// it: epochs, oldest first, each a chain of batches and gaps. The capture's
// goroutine appends, the uplink's session takes and acknowledges.
//
// Its memory is bounded. When that is full, what is safely on disk leaves it;
// when nothing is, either the capture waits, or the newest packets or the
// oldest loose batch become a counted gap. What was sent stays until it is
// acknowledged: a relay may have it, and nothing else may take its numbers. So
// that there is always something to drop, no more than half of the memory, which
// the streams of a capture have together, is given to what was sent; where
// nothing is dropped, all of it.
type queue struct {
	memory   *memory
	overflow Overflow      // what to do when the memory is full
	wake     chan struct{} // there may be something to do for the session
	work     chan struct{} // … for the spool; nil without one
	over     chan struct{} // closed when nothing more will come
	sealing  sync.Mutex    // taken after mu, where both are

	mu      sync.Mutex
	epochs  []*epoch
	past    ledger // of epochs that are done with
	began   uint64 // epochs
	size    int64  // of memory that all items take
	buffers buffers
	spare   *item // for the next items, chained
	shut    bool  // no epoch will follow

	// For the session, guarded by mu.
	writing  *item // must not be recycled yet
	window   int   // bytes that may be unacknowledged, as the relay says
	inflight int   // bytes that are
	sentSize int64 // of memory that sent items take, on whichever connection
	starved  bool  // the window or the memory keeps it from sending

	// For the spool, guarded by mu.
	spooling *item  // must not be recycled yet
	orphan   bool   // … and belongs to no chain any more
	durable  uint64 // entries of the journal that are on stable storage
	keen     bool   // it wants to know of everything
	lagging  bool   // what it has was not acknowledged yet
}

func newQueue(m *memory, overflow Overflow) *queue {
	m.streams.Add(1)
	return &queue{
		memory: m, overflow: overflow, buffers: buffers{memory: m},
		wake: make(chan struct{}, 1), over: make(chan struct{}),
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// begin opens an epoch. Its predecessor is closed.
func (q *queue) begin(hello wire.Hello) *epoch {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.prune()
	ep := &epoch{hello: hello}
	q.epochs = append(q.epochs, ep)
	q.began++
	q.signal()
	return ep
}

// prune forgets the newest epoch if it is over, nothing came of it, and no
// relay has heard of it.
func (q *queue) prune() {
	last := len(q.epochs) - 1
	if last < 0 {
		return
	}
	if ep := q.epochs[last]; ep.closed && !ep.final && !ep.greeted && !ep.onDisk && ep.next == 0 {
		q.past.add(ep.ledger)
		q.epochs = q.epochs[:last]
	}
}

// close ends an epoch; final says that the stream has ended for good.
func (q *queue) close(ep *epoch, final bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ep.closed, ep.final = true, final
	q.signal()
	q.employ()
}

// end says that no epoch will follow.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.prune()
	if !q.shut {
		q.shut = true
		close(q.over)
	}
	q.signal()
}

// A load is what a batcher has gathered.
type load struct {
	frame            []byte // wire.BatchPrefixLen bytes, then records
	count            uint64
	empty            uint64 // packets that could not be gathered
	earliest, latest int64
	sealed           bool // the frame's header is complete, if this becomes a batch of its own
}

// append takes a load over and returns an empty buffer for the next one. It
// may wait for memory, until stop is closed.
func (q *queue) append(ep *epoch, l load, stop <-chan struct{}) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	ep.ledger.empty += l.empty
	if l.count == 0 {
		return l.frame
	}
	if !q.grow(ep, l) {
		if !q.admit(int64(cap(l.frame))+itemOverhead, stop) {
			q.lose(ep, wire.Gap{Count: l.count, Cause: wire.CauseSpoolOverflow, Earliest: l.earliest, Latest: l.latest})
			return l.frame
		}
		it := q.item()
		it.frame, it.count, it.earliest, it.latest, it.sealed = l.frame, l.count, l.earliest, l.latest, l.sealed
		q.charge(it.size())
		ep.push(it)
		l.frame = q.buffers.get(batchSize)
	}
	ep.ledger.captured += l.count
	if !q.starved {
		q.signal()
	}
	q.employ()
	return l.frame
}

// exchange takes an empty buffer and returns one that holds n bytes.
func (q *queue) exchange(buf []byte, n int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.buffers.put(buf)
	return q.buffers.get(n)
}

// grow adds a load to the newest batch, if that was never sent and has room.
func (q *queue) grow(ep *epoch, l load) bool {
	it := ep.growing()
	if it == nil || !it.isBatch() {
		return false
	}
	records := l.frame[wire.BatchPrefixLen:]
	if len(it.frame)+len(records) > min(batchSize, cap(it.frame)) {
		return false
	}
	it.frame, it.sealed = append(it.frame, records...), false
	it.count += l.count
	it.earliest, it.latest = min(it.earliest, l.earliest), max(it.latest, l.latest)
	ep.next += wire.PacketNumber(l.count)
	return true
}

// admit makes room for size bytes, by means of the spool, by waiting or by
// dropping. It returns false when there is nothing to drop.
func (q *queue) admit(size int64, stop <-chan struct{}) bool {
	for q.memory.full(size) {
		switch {
		case q.evict():
		case q.overflow == OverflowBlock:
			if stopped := q.awaitMemory(stop); stopped {
				return true
			}
		case q.size+size <= q.memory.share():
			return true
		case q.overflow == OverflowDropNewest || !q.drop():
			return false
		}
	}
	return true
}

// awaitMemory waits without mu until there is more.
func (q *queue) awaitMemory(stop <-chan struct{}) (stopped bool) {
	q.employ()
	q.mu.Unlock()
	defer q.mu.Lock()
	select {
	case <-q.memory.freed:
		return false
	case <-stop:
		return true
	}
}

// drop turns the oldest loose batch into a gap.
func (q *queue) drop() bool {
	for _, ep := range q.epochs {
		it := ep.oldestLoose()
		if it == nil {
			continue
		}
		q.discharge(it.size())
		q.buffers.put(it.frame)
		it.frame, it.cause = nil, wire.CauseSpoolOverflow
		ep.ledger.lose(it.count, it.cause)
		ep.mergeGaps()
		return true
	}
	return false
}

// gap appends a gap; its number is given here.
func (q *queue) gap(ep *epoch, g wire.Gap) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lose(ep, g)
}

func (q *queue) lose(ep *epoch, g wire.Gap) {
	ep.ledger.captured += g.Count
	ep.ledger.lose(g.Count, g.Cause)
	if g.Count == 0 {
		ep.ledger.unknown[cell(g.Cause)]++
	}
	if it := ep.growing(); it != nil && it.isGap() && it.cause == g.Cause {
		it.count += g.Count
		it.widen(g.Earliest, g.Latest)
		ep.next += wire.PacketNumber(g.Count)
	} else {
		it := q.item()
		it.count, it.cause, it.earliest, it.latest = g.Count, g.Cause, g.Earliest, g.Latest
		ep.push(it)
	}
	ep.mergeGaps()
	q.signal()
	q.employ()
}

// charge counts memory that an item takes.
func (q *queue) charge(n int64) {
	q.size += n
	q.memory.add(n)
}

func (q *queue) discharge(n int64) {
	q.size -= n
	q.memory.release(n)
}

// item returns a fresh item.
func (q *queue) item() *item {
	it := q.spare
	if it == nil {
		return new(item)
	}
	q.spare = it.next
	*it = item{}
	return it
}

// recycle takes an item back that nobody points to any more.
func (q *queue) recycle(it *item) {
	if it.frame != nil {
		q.buffers.put(it.frame)
	}
	*it = item{next: q.spare}
	q.spare = it
}

// totals is what a stream's queue counts.
type totals struct {
	ledger
	bytes  int64 // of memory
	epochs uint64
	disk   uint64 // packets that are on disk only
	oldest int64  // time of the oldest packet that is held, or 0
}

func (q *queue) totals() totals {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := totals{ledger: q.past, bytes: q.size, epochs: q.began}
	for _, ep := range q.epochs {
		t.add(ep.ledger)
		if ep.disk != nil {
			t.disk += ep.disk.stretch.packets
		}
		if t.oldest == 0 && ep.head != nil && !ep.head.isGap() {
			t.oldest = ep.head.earliest
		}
	}
	return t
}
