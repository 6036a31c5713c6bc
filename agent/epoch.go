package agent

import (
	"poip/internal/pcap"
	"poip/internal/wire"
)

// An item is a batch or a gap, a link in the chain of its epoch. A batch that
// was never sent may still grow, or become a gap; once sent it is what it is.
type item struct {
	next     *item
	first    wire.PacketNumber
	count    uint64
	earliest int64 // nanoseconds since 1970, as latest; 0 is unknown
	latest   int64
	cause    wire.Cause // of a gap; 0 in a batch
	frame    []byte     // of a batch: wire.BatchPrefixLen bytes, then records
	sealed   bool       // owned by the session that sends it
}

// itemOverhead is what an item takes beside its frame, in bytes, roughly.
const itemOverhead = 128

func (it *item) isGap() bool              { return it.frame == nil }
func (it *item) after() wire.PacketNumber { return it.first + wire.PacketNumber(it.count) }

// size is what the item takes of the agent's memory, in bytes.
func (it *item) size() int64 {
	if it.isGap() {
		return 0
	}
	return int64(cap(it.frame)) + itemOverhead
}

// wireLen is the length of its frame on the wire.
func (it *item) wireLen() int {
	if it.isGap() {
		return gapFrameLen
	}
	return len(it.frame)
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

// stretch widens the times of a gap.
func (it *item) stretch(earliest, latest int64) {
	if it.earliest == 0 || earliest != 0 && earliest < it.earliest {
		it.earliest = earliest
	}
	it.latest = max(it.latest, latest)
}

// cut removes the packets below n, which the relay has.
func (it *item) cut(n wire.PacketNumber) {
	gone := uint64(n - it.first)
	if !it.isGap() {
		it.frame, it.sealed = cutRecords(it.frame, gone), false
	}
	it.first, it.count = n, it.count-gone
}

// cutRecords removes the first n records of a batch frame.
func cutRecords(frame []byte, n uint64) []byte {
	records := frame[wire.BatchPrefixLen:]
	at := 0
	for range n {
		_, _, captured, _ := pcap.Record(records[at:])
		at += pcap.RecordHeaderLen + int(captured)
	}
	left := copy(records, records[at:])
	return frame[:wire.BatchPrefixLen+left]
}

// An epoch is what one run of a capture has yielded and no relay has
// acknowledged: a chain of items from head to tail. The chain is in three
// parts, which begin at head, unsent and fresh:
//
//	head ─ sent on this connection ─ unsent ─ sent on an earlier one ─ fresh ─ never sent ─ tail
//
// All its fields are guarded by the queue's mu, but for frames on their way
// to the wire.
type epoch struct {
	hello  wire.Hello // as first said; Oldest and SentAt are those of the day
	acked  wire.PacketNumber
	next   wire.PacketNumber // the number of the next packet
	ledger ledger

	head, unsent, fresh, tail *item

	greeted bool // a relay may know of it
	waiting bool // for the hello-ack
	closed  bool // no more packets
	final   bool // … nor epochs
	endSent bool // on this connection
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
}

// pop removes the head.
func (e *epoch) pop() *item {
	it := e.head
	e.head, it.next = it.next, nil
	if e.head == nil {
		e.tail = nil
	}
	return it
}

// growing is the batch or gap at the tail, while it may still change.
func (e *epoch) growing() *item {
	if e.fresh == nil {
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

// oldestFresh is the first batch that was never sent.
func (e *epoch) oldestFresh() *item {
	it := e.fresh
	for it != nil && it.isGap() {
		it = it.next
	}
	return it
}

// mergeGaps makes one gap for each cause of the gaps that the fresh part
// begins with. Which of the lost packets had which number nobody can tell, so
// they are numbered anew; their counts stay.
func (e *epoch) mergeGaps() {
	n := firstOr(e.fresh, e.next)
	for it := e.fresh; it != nil && it.isGap(); it = it.next {
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
		it.stretch(later.earliest, later.latest)
		prev.next = later.next
		if e.tail == later {
			e.tail = prev
		}
	}
}
