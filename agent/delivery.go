package agent

import (
	"fmt"

	"poip/internal/wire"
)

// This is the queue's other side, on which a session takes what is to be sent
// and says what was acknowledged. One session at a time does so.

// A delivery is what is to be done next.
type delivery int

const (
	nothing   delivery = iota // wait for a signal
	sendItem                  // put the item on the wire
	readSpool                 // what is to be sent next is on disk only
	sendEnd                   // say that the epoch is over
	epochOver                 // the relay has answered that
)

// greet returns the oldest epoch and how to say hello for it, or nil if there
// is none. Everything not acknowledged counts as unsent again.
func (q *queue) greet(now int64) (*epoch, wire.Hello) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.epochs) == 0 {
		return nil, wire.Hello{}
	}
	ep := q.epochs[0]
	q.writing, q.inflight, q.starved = nil, 0, false
	ep.unsent, ep.endSent = ep.head, false
	ep.greeted, ep.waiting = true, true
	hello := ep.hello
	hello.Oldest, hello.SentAt = ep.acked, now
	return ep, hello
}

// resume takes the relay's answer: the number it wants next, and its window.
func (q *queue) resume(position wire.PacketNumber, window uint32) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.epochs) == 0 || !q.epochs[0].waiting {
		return fmt.Errorf("%w: relay sent a hello-ack without a hello", wire.ErrMalformed)
	}
	ep := q.epochs[0]
	if most := q.concede(ep, position); position < ep.acked || position > most {
		return fmt.Errorf("%w: relay wants packet %d, we have %d to %d", wire.ErrMalformed, position, ep.acked, most)
	}
	ep.waiting = false
	q.window = int(min(window, 1<<30))
	ep.acked = position
	q.release(ep)
	if ep.head != nil && ep.head.first < position {
		q.cut(ep, position)
	}
	ep.unsent, q.inflight = ep.head, 0
	q.signal()
	return nil
}

// cut takes from the head what the relay has of it.
func (q *queue) cut(ep *epoch, position wire.PacketNumber) {
	it := ep.head
	gone := uint64(position - it.first)
	q.sealing.Lock()
	defer q.sealing.Unlock()
	it.first, it.count = position, it.count-gone
	if it.isBatch() {
		ep.ledger.acknowledged += gone
		before := it.size()
		q.cutFrame(it, gone)
		if it != ep.fresh {
			q.chargeSent(it.size() - before)
		}
	}
}

// cutFrame removes the first n records of a batch. Its old buffer is not used
// again: the spool may be reading it.
func (q *queue) cutFrame(it *item, n uint64) {
	q.discharge(it.size())
	records := recordsFrom(it.frame[wire.BatchPrefixLen:], n)
	frame := q.buffers.get(wire.BatchPrefixLen + len(records))
	it.frame = append(frame[:wire.BatchPrefixLen], records...)
	it.sealed = false
	q.charge(it.size())
}

// sealed completes an item's frame, if that is still to be done, and returns it.
func (q *queue) sealed(it *item) []byte {
	q.sealing.Lock()
	defer q.sealing.Unlock()
	if !it.sealed {
		it.seal()
	}
	return it.frame
}

// take says what to do next for an epoch that the relay has accepted. The item
// that goes with sendItem belongs to the caller until its next call.
func (q *queue) take(ep *epoch) (delivery, *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.epochs) == 0 || q.epochs[0] != ep {
		return epochOver, nil
	}
	q.writing = nil
	q.release(ep) // what was acknowledged while it was being written
	it := ep.unsent
	if it == nil {
		if ep.endSent || !q.mayEnd(ep) {
			return nothing, nil
		}
		ep.endSent = true
		return sendEnd, nil
	}
	if q.starved = !q.maySend(ep, it); q.starved {
		return nothing, nil
	}
	if it.isDisk() {
		return readSpool, nil
	}
	if it == ep.fresh {
		ep.fresh = it.next
		q.fix(ep, it)
		q.chargeSent(it.size())
	}
	ep.unsent = it.next
	q.inflight += it.wireLen()
	q.writing = it
	ep.ledger.sent += it.packets()
	return sendItem, it
}

// mayEnd: an epoch is ended once its successor is there, or none will be; one
// that was recovered, at once.
func (q *queue) mayEnd(ep *epoch) bool {
	return ep.closed && (ep.final || ep.recovered || q.shut || len(q.epochs) > 1)
}

// maySend: one item is always allowed, more of them within the relay's window,
// and as far as there is room where they were never sent before. A gap goes
// only where a batch might go too, so that on a link that is dead one gap
// grows, rather than many gather.
func (q *queue) maySend(ep *epoch, it *item) bool {
	if q.inflight > 0 && q.inflight+it.wireLen() > q.window {
		return false
	}
	size := it.size()
	if !it.isBatch() {
		size = batchSize + itemOverhead
	}
	return it != ep.fresh || q.sentSize == 0 || size <= q.roomToSend()
}

// roomToSend is how much more memory may be given to what is sent: what the
// streams of the capture leave of mostSent, or else a part of the stream's own
// share, so that it goes on when others are not acknowledged.
func (q *queue) roomToSend() int64 {
	return max(q.mostSent()-q.memory.sent.Load(), q.memory.share()/4-q.sentSize, 0)
}

// chargeSent counts memory that a sent item takes.
func (q *queue) chargeSent(n int64) {
	q.sentSize += n
	q.memory.chargeSent(n)
}

// mostSent is how much memory may be given to what was sent. A capture that
// waits drops nothing, so all of it: a relay with a history acknowledges in
// rounds of several MiB, and has to have the next one on its way meanwhile.
func (q *queue) mostSent() int64 {
	if q.overflow == OverflowBlock && q.work == nil {
		return q.memory.limit
	}
	return q.memory.limit / 2
}

// fix keeps an item from changing any more, and moves a frame that does not
// fill its buffer to a smaller one.
func (q *queue) fix(ep *epoch, it *item) {
	if it.fixed {
		return
	}
	ep.fix(it)
	if !it.isBatch() || classOf(len(it.frame)) == classOf(cap(it.frame)) {
		return
	}
	q.discharge(it.size())
	small := append(q.buffers.get(len(it.frame)), it.frame...)
	q.buffers.put(it.frame)
	it.frame = small
	q.charge(it.size())
}

// acknowledge takes an ack for the epoch at hand.
func (q *queue) acknowledge(a wire.Ack) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.epochs) == 0 || q.epochs[0].waiting {
		return fmt.Errorf("%w: relay acknowledged without a hello", wire.ErrMalformed)
	}
	ep := q.epochs[0]
	if a.Next > ep.sentTo() || a.Ended && (!ep.endSent || a.Next != ep.next) {
		return fmt.Errorf("%w: relay acknowledged up to %d (ended: %t), we have sent up to %d (ended: %t)",
			wire.ErrMalformed, a.Next, a.Ended, ep.sentTo(), ep.endSent)
	}
	ep.acked = max(ep.acked, a.Next)
	q.release(ep)
	if a.Ended {
		q.past.add(ep.ledger)
		q.epochs[0] = nil
		q.epochs = q.epochs[1:]
		q.rouse()
	}
	if q.starved || a.Ended {
		q.starved = false
		q.signal()
	}
	return nil
}

// release forgets the items that are acknowledged, but for the one that is
// being written.
func (q *queue) release(ep *epoch) {
	for it := ep.head; it != nil && it != ep.fresh && it != q.writing && it.settled(ep.acked); it = ep.head {
		ep.pop()
		ep.ledger.acknowledged += it.packets()
		q.inflight -= it.wireLen()
		q.chargeSent(-it.size())
		q.discharge(it.size())
		if it == q.spooling {
			q.orphan = true
			continue
		}
		q.recycle(it)
	}
}

// stats are the epoch's counters.
func (q *queue) stats(ep *epoch, now int64) wire.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return wire.Stats{
		SentAt:        now,
		Captured:      ep.ledger.captured,
		Lost:          ep.ledger.allLost(),
		Empty:         ep.ledger.empty,
		QueuedPackets: ep.ledger.held(),
		QueuedBytes:   uint64(q.size),
	}
}

// finished says that nothing is left to say, now or later.
func (q *queue) finished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.shut && len(q.epochs) == 0
}

// hasEpoch says that there is something to say.
func (q *queue) hasEpoch() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.epochs) > 0
}
