package agent

import (
	"poip/internal/journal"
	"poip/internal/wire"
)

// This is the queue's third side, on which a spool takes what is to go to disk,
// and through which what is on disk only comes back. One spool does so, and
// none where there is no disk to use.

// employ tells the spool that there may be something to do, if it wants to
// know: mostly it only looks once a second.
func (q *queue) employ() {
	if q.work == nil || !q.keen && q.memory.used.Load() <= q.memory.limit/2 {
		return
	}
	q.rouse()
}

// rouse tells the spool in any case.
func (q *queue) rouse() {
	select {
	case q.work <- struct{}{}:
	default:
	}
}

// A haste says what is to be spooled now.
type haste int

const (
	hasteAged haste = iota // what has waited for a second
	hasteFull              // and whatever does not grow any more
	hasteAll               // all there is
)

// tick notes that a second has passed. Once something had to be spooled,
// everything is, until what is on disk has been acknowledged.
func (q *queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	aged, behind := false, false
	for _, ep := range q.epochs {
		ep.aged, ep.marked = ep.marked, ep.next
		aged = aged || ep.isAged(ep.unspooled)
		behind = behind || ep.head != nil && ep.head.entry > 0
	}
	q.lagging = aged || q.lagging && behind
}

func (e *epoch) isAged(it *item) bool {
	return it != nil && (it.first < e.aged || it.after() <= e.aged)
}

// hurry says what is to be spooled now; all: in any case everything.
func (q *queue) hurry(all bool) haste {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keen = all || q.lagging
	switch {
	case all:
		return hasteAll
	case q.lagging, q.memory.used.Load() > q.memory.limit/2:
		return hasteFull
	}
	return hasteAged
}

// An errand is what the spool is to write next: a batch, a gap, or the end of an
// epoch.
type errand struct {
	hello wire.Hello // of the epoch
	item  *item      // of a batch or gap, lent; nil: the epoch's end
	batch bool
	gap   wire.Gap          // if it is one
	next  wire.PacketNumber // where the epoch ends
	final bool
}

// due finds the oldest item that is to go to disk now, or the end of an epoch.
// The ends of epochs of which nothing is on disk can wait, until something
// follows or for the last errands: the journal has the queue's order.
func (q *queue) due(h haste, last bool) (ep *epoch, it *item, some bool) {
	var unended *epoch
	for _, ep := range q.epochs {
		it := ep.unspooled
		if it == nil {
			if !ep.closed || ep.recovered || ep.endOnDisk {
				continue
			}
			if ep.onDisk || last {
				return ep, nil, true
			}
			if unended == nil {
				unended = ep
			}
			continue
		}
		grows := it == ep.tail && !it.fixed && !ep.closed
		if h == hasteAll || ep.isAged(it) || h == hasteFull && !grows {
			if unended != nil {
				return unended, nil, true
			}
			return ep, it, true
		}
		break // later epochs come after it
	}
	return nil, nil, false
}

// spoolNext fixes what is due and lends it to the spool until spooled is called.
// It returns false when there is nothing to do.
func (q *queue) spoolNext(h haste, last bool) (errand, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ep, it, some := q.due(h, last)
	if !some {
		return errand{}, false
	}
	ep.onDisk = true
	if it == nil {
		ep.endOnDisk = true
		return errand{hello: ep.hello, next: ep.next, final: ep.final}, true
	}
	q.fix(ep, it)
	ep.unspooled = it.next
	q.spooling = it
	return errand{hello: ep.hello, item: it, batch: it.isBatch(), gap: it.gap()}, true
}

// spooled takes an item back that is an entry of the journal now.
func (q *queue) spooled(it *item, entry uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spooling = nil
	if q.orphan {
		q.orphan = false
		q.recycle(it)
		return
	}
	it.entry = entry
}

// settle takes how much of the journal is on stable storage, and moves what is
// so out of memory while more than half of that is in use.
func (q *queue) settle(durable uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.durable = durable
	for q.memory.used.Load() > q.memory.limit/2 && q.evict() {
		continue
	}
}

// evict moves the oldest batch that can be read back from disk out of memory,
// onto the epoch's stretch. It returns false if there is none.
func (q *queue) evict() bool {
	if q.durable == 0 {
		return false
	}
	for _, ep := range q.epochs {
		for it := ep.evictable(); it != nil && it.entry != 0 && it.entry <= q.durable; it = ep.evictable() {
			freed := it.size()
			q.intoStretch(ep, it)
			if freed > 0 {
				return true
			}
		}
	}
	return false
}

// evictable is the item that could go next: the one that follows the stretch,
// or else the first batch that was never sent.
func (e *epoch) evictable() *item {
	if e.disk != nil {
		return e.disk.next
	}
	it := e.fresh
	for it != nil && it.isGap() {
		it = it.next
	}
	return it
}

func (q *queue) intoStretch(ep *epoch, it *item) {
	q.discharge(it.size())
	packets, buf := it.packets(), it.frame
	if buf != nil {
		q.buffers.put(buf)
		it.frame = nil
	}
	d := ep.disk
	if d == nil {
		it.stretch, it.cause = &stretch{packets: packets}, 0
		ep.disk = it
		return
	}
	d.count += it.count
	d.stretch.packets += packets
	if it.cause == wire.CauseSpoolCorrupt {
		d.stretch.told += it.count
	}
	d.stretch.unknown = it.count == 0
	d.latest = max(d.latest, it.latest)
	d.next = it.next
	if ep.tail == it {
		ep.tail = d
	}
	q.recycle(it)
}

// concede returns up to where a relay may have an epoch. Of one that was
// recovered it may have more than this run of the agent has sent; of one that
// was cut short, more than there is on disk, and then the epoch ends there. The
// gap that the crash has left is to be sent in any case.
func (q *queue) concede(ep *epoch, position wire.PacketNumber) (most wire.PacketNumber) {
	if !ep.recovered || position <= ep.everSentTo() {
		return ep.everSentTo()
	}
	for ep.fresh != nil && ep.fresh.cause != wire.CauseAgentCrash && ep.fresh.settled(position) {
		q.chargeSent(ep.fresh.size())
		ep.fresh = ep.fresh.next
	}
	if ep.crashed && position > ep.next {
		ep.next = position
		for it := ep.fresh; it != nil; it = it.next { // the gap that the crash has left
			it.first = position
		}
	}
	return ep.next
}

// standing says up to where each epoch is acknowledged, oldest first, for what
// is not needed on disk any more.
func (q *queue) standing() (oldest wire.Epoch, acked wire.PacketNumber, some bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ep := range q.epochs {
		if !ep.onDisk {
			continue
		}
		acked = ep.acked
		if ep.closed && acked == ep.next && acked > 0 {
			acked-- // the end, which no relay has heard yet, stands beside the last packet
		}
		return ep.hello.Epoch, acked, true
	}
	return oldest, 0, false
}

// forfeit turns what was lent to the spool into a gap, as there is no room for
// it on disk and no time for it in memory.
func (q *queue) forfeit(e errand) errand {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.batch = false
	e.gap.Cause = wire.CauseSpoolOverflow
	for _, ep := range q.epochs {
		if ep.hello.Epoch == e.hello.Epoch && !q.orphan {
			ep.ledger.lose(e.gap.Count, e.gap.Cause)
		}
	}
	return e
}

// hasErrand says whether spoolNext would find an item.
func (q *queue) hasErrand(h haste) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, _, some := q.due(h, false)
	return some
}

// recover puts an epoch into the queue that an earlier run of the agent has
// left on disk. One whose end is not there was cut short: what was not on disk
// yet is lost, and nobody knows how much that was.
func (q *queue) recover(stream string, state journal.EpochState, earliest, now int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ep := &epoch{
		hello: wire.Hello{Version: wire.Version, LinkType: state.LinkType, Snaplen: state.Snaplen, Epoch: state.ID,
			Stream: stream, Interface: state.Interface, Agent: state.Agent},
		acked: state.First, next: state.First,
		greeted: true, closed: true, final: state.Final, recovered: true, crashed: !state.Ended, onDisk: true,
	}
	if state.Next > state.First || state.UnknownAtNext {
		it := &item{count: uint64(state.Next - state.First), earliest: earliest, latest: state.Latest, entry: 1}
		it.stretch = &stretch{packets: state.Packets, unknown: state.UnknownAtNext, recovered: true}
		ep.push(it)
		ep.disk = it
		ep.fix(it)
	}
	if ep.crashed {
		// Not on disk, and so never to be read back: the next run would make it anew.
		it := &item{cause: wire.CauseAgentCrash, earliest: state.Latest, latest: now}
		ep.push(it)
		ep.fix(it)
		ep.ledger.unknown[cell(it.cause)]++
	}
	ep.unspooled = nil
	ep.ledger.captured, ep.ledger.recovered = state.Packets, state.Packets
	q.epochs = append(q.epochs, ep)
}

// A diskPart is what of an epoch is on disk only.
type diskPart struct {
	epoch        wire.Epoch
	first, after wire.PacketNumber
}

// droppable lists what may be dropped on disk. All that can be read back is put
// there first.
func (q *queue) droppable() (parts []diskPart) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.evict() {
		continue
	}
	for _, ep := range q.epochs {
		if ep.disk != nil {
			parts = append(parts, diskPart{ep.hello.Epoch, ep.disk.first, ep.disk.after()})
		}
	}
	return parts
}

// dropped counts packets of an epoch that became gaps on disk.
func (q *queue) dropped(id wire.Epoch, packets uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ep := range q.epochs {
		if ep.hello.Epoch == id && ep.disk != nil {
			ep.disk.stretch.drop(&ep.ledger, packets)
		}
	}
}
