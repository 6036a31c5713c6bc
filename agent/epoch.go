package agent

import (
	"poip/internal/pcap"
	"poip/internal/wire"
)

// An item is a batch, a gap, or a stretch of these that is on disk only; a link
// in the chain of its epoch. A batch that is loose may still grow, or become a
// gap; once it is fixed, by being sent or spooled, it is what it is.
type item struct {
	next     *item
	first    wire.PacketNumber
	count    uint64
	earliest int64 // nanoseconds since 1970, as latest; 0 is unknown
	latest   int64
	cause    wire.Cause // of a gap; 0 in a batch
	frame    []byte     // of a batch: wire.BatchPrefixLen bytes, then records
	stretch  *stretch   // of what is on disk only
	entry    uint64     // in the spool's journal, counted from 1; 0: not on disk
	fixed    bool
	sealed   bool // guarded by the queue's sealing, as the frame once it is fixed
}

// itemOverhead is what an item takes beside its frame, in bytes, roughly.
const itemOverhead = 160

func (it *item) isBatch() bool            { return it.frame != nil }
func (it *item) isDisk() bool             { return it.stretch != nil }
func (it *item) isGap() bool              { return it.frame == nil && it.stretch == nil }
func (it *item) after() wire.PacketNumber { return it.first + wire.PacketNumber(it.count) }

// settled says that a relay which has acknowledged up to n has the item. A gap
// of unknown count takes no number: it is there when what follows is. So is one
// that stands at the end of a stretch.
func (it *item) settled(n wire.PacketNumber) bool {
	if it.count == 0 || it.isDisk() && it.stretch.unknown {
		return it.after() < n
	}
	return it.after() <= n
}

// packets are those that it holds.
func (it *item) packets() uint64 {
	switch {
	case it.isDisk():
		return it.stretch.packets
	case it.isBatch():
		return it.count
	}
	return 0
}

// size is what the item takes of the agent's memory, in bytes.
func (it *item) size() int64 {
	if !it.isBatch() {
		return 0
	}
	return int64(cap(it.frame)) + itemOverhead
}

// wireLen is what its frame takes of the relay's window. What takes no number
// is not acknowledged by itself, and must not hold anything up.
func (it *item) wireLen() int {
	switch {
	case it.isBatch():
		return len(it.frame)
	case it.count == 0:
		return 0
	}
	return gapFrameLen
}

var gapFrameLen = len(wire.AppendGap(nil, wire.Gap{}))

func (it *item) gap() wire.Gap {
	return wire.Gap{First: it.first, Count: it.count, Cause: it.cause, Earliest: it.earliest, Latest: it.latest}
}

// seal completes the frame of a batch.
func (it *item) seal() {
	wire.SealBatch(it.frame, wire.BatchHeader{
		First: it.first, Count: uint32(it.count), Earliest: it.earliest, Latest: it.latest,
	})
	it.sealed = true
}

// widen stretches the times of a gap.
func (it *item) widen(earliest, latest int64) {
	if it.earliest == 0 || earliest != 0 && earliest < it.earliest {
		it.earliest = earliest
	}
	it.latest = max(it.latest, latest)
}

// recordsFrom returns the records of a batch without the first n.
func recordsFrom(records []byte, n uint64) []byte {
	for range n {
		_, _, captured, _ := pcap.Record(records)
		records = records[pcap.RecordHeaderLen+int(captured):]
	}
	return records
}

// An epoch is what one run of a capture has yielded and no relay has
// acknowledged: a chain of items from head to tail. The chain is in three
// parts, which begin at head, unsent and fresh:
//
//	head ─ sent on this connection ─ unsent ─ sent on an earlier one ─ fresh ─ never sent ─ tail
//
// The spool divides it once more: what comes before unspooled is on disk, or on
// its way there; of that, a stretch which was never sent may be on disk only.
// Whatever was neither sent nor spooled is loose.
//
// All its fields are guarded by the queue's mu, but for frames on their way
// to the wire or to the spool.
type epoch struct {
	hello  wire.Hello // as first said; Oldest and SentAt are those of the day
	acked  wire.PacketNumber
	next   wire.PacketNumber // the number of the next packet
	ledger ledger

	head, unsent, fresh, tail *item
	loose, unspooled          *item
	disk                      *item // the stretch that is on disk only

	greeted   bool // a relay may know of it
	waiting   bool // for the hello-ack
	closed    bool // no more packets
	final     bool // … nor epochs
	endSent   bool // on this connection
	recovered bool // by an agent that has begun after it was over
	crashed   bool // recovered, and nobody knows how much of it a relay has
	onDisk    bool // something of it is in the spool
	endOnDisk bool

	// Numbers at the last tick of the spool and at the one before: what is
	// below the latter has waited for a second.
	marked, aged wire.PacketNumber
}

// push appends an item.
func (e *epoch) push(it *item) {
	it.first = e.next
	e.next = it.after()
	if e.tail == nil {
		e.head = it
	} else {
		e.tail.next = it
	}
	e.tail = it
	if e.unsent == nil {
		e.unsent = it
	}
	if e.fresh == nil {
		e.fresh = it
	}
	if e.loose == nil {
		e.loose = it
	}
	if e.unspooled == nil {
		e.unspooled = it
	}
}

// pop removes the head, which was sent.
func (e *epoch) pop() *item {
	it := e.head
	if e.unspooled == it {
		e.unspooled = it.next
	}
	if e.disk == it {
		e.disk = nil
	}
	e.head, it.next = it.next, nil
	if e.head == nil {
		e.tail = nil
	}
	return it
}

// fix keeps an item from changing. Those before it are fixed already.
func (e *epoch) fix(it *item) {
	it.fixed = true
	if e.loose == it {
		e.loose = it.next
	}
}

// growing is the batch or gap at the tail, while it may still change.
func (e *epoch) growing() *item {
	if e.loose == nil {
		return nil
	}
	return e.tail
}

// sentTo is the number after the last packet sent on this connection.
func (e *epoch) sentTo() wire.PacketNumber { return firstOr(e.unsent, e.next) }

// everSentTo is the number after the last packet sent on any.
func (e *epoch) everSentTo() wire.PacketNumber { return firstOr(e.fresh, e.next) }

func firstOr(it *item, n wire.PacketNumber) wire.PacketNumber {
	if it != nil {
		return it.first
	}
	return n
}

// oldestLoose is the first batch that was neither sent nor spooled.
func (e *epoch) oldestLoose() *item {
	it := e.loose
	for it != nil && it.isGap() {
		it = it.next
	}
	return it
}

// mergeGaps makes one gap for each cause of the gaps that the loose part
// begins with. Which of the lost packets had which number nobody can tell, so
// they are numbered anew; their counts stay.
func (e *epoch) mergeGaps() {
	n := firstOr(e.loose, e.next)
	for it := e.loose; it != nil && it.isGap(); it = it.next {
		e.absorbLater(it)
		it.first = n
		n = it.after()
	}
}

// absorbLater takes the gaps of the same cause that follow into it.
func (e *epoch) absorbLater(it *item) {
	for prev := it; prev.next != nil && prev.next.isGap(); {
		later := prev.next
		if later.cause != it.cause {
			prev = later
			continue
		}
		it.count += later.count
		it.widen(later.earliest, later.latest)
		prev.next = later.next
		if e.tail == later {
			e.tail = prev
		}
	}
}
