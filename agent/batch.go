package agent

import (
	"math"
	"runtime"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A batcher gathers the packets of one epoch into batch frames, in place:
// room for the headers, then records as they will stand on the wire. It is
// the capture.RecordSink that a Source fills, owned by the Source's goroutine. A
// packet costs one copy at most; the queue is bothered once for a batch.
type batcher struct {
	queue *queue
	epoch *epoch
	stop  <-chan struct{} // the capture is to end, and must not wait for memory

	load
	last int64 // the latest time of the batch before; 0 if there was none
}

func newBatcher(q *queue, ep *epoch, stop <-chan struct{}) *batcher {
	b := &batcher{queue: q, epoch: ep, stop: stop}
	b.reset(make([]byte, 0, batchSize))
	return b
}

func (b *batcher) reset(buf []byte) {
	b.load = load{frame: buf[:wire.BatchPrefixLen], earliest: math.MaxInt64, latest: math.MinInt64}
}

// Packet takes one packet. Bounds that a relay would refuse are kept here once
// more: a batch that is refused would be sent again for ever.
func (b *batcher) Packet(sec, nsec, original uint32, data []byte) {
	if len(data) == 0 || len(data) > pcap.MaxCaptured || nsec >= 1e9 {
		b.odd(sec, nsec, original, data)
		return
	}
	need := pcap.RecordHeaderLen + len(data)
	if len(b.frame)+need > batchSize {
		b.turn(need)
	}
	b.frame = pcap.AppendRecord(b.frame, sec, nsec, max(original, uint32(len(data))), data)
	b.count++
	at := int64(sec)*1e9 + int64(nsec)
	if at < b.earliest {
		b.earliest = at
	}
	if at > b.latest {
		b.latest = at
	}
}

// Room implements capture.RecordSink.
func (b *batcher) Room() []byte {
	if len(b.frame) > batchSize/2 {
		b.handOver()
	}
	return b.frame[len(b.frame):batchSize]
}

// Records implements capture.RecordSink.
func (b *batcher) Records(run pcap.Run) {
	b.frame = b.frame[:len(b.frame)+run.Len]
	b.count += uint64(run.Count)
	b.earliest, b.latest = min(b.earliest, run.Earliest), max(b.latest, run.Latest)
}

// odd brings a packet within bounds.
func (b *batcher) odd(sec, nsec, original uint32, data []byte) {
	if len(data) == 0 {
		b.Empty()
		return
	}
	original = max(original, uint32(len(data)))
	data = data[:min(len(data), pcap.MaxCaptured)]
	b.Packet(sec, min(nsec, 1e9-1), original, data)
}

// turn hands over what was gathered, so that need bytes fit.
func (b *batcher) turn(need int) {
	b.handOver()
	if wire.BatchPrefixLen+need > cap(b.frame) {
		b.reset(b.queue.exchange(b.frame, wire.BatchPrefixLen+need))
	}
}

// Lost puts a gap after the packets so far.
func (b *batcher) Lost(count uint64, cause wire.Cause) {
	if count == 0 && cause != wire.CauseCaptureRestart { // of which nobody can know
		return
	}
	b.handOver()
	b.queue.gap(b.epoch, wire.Gap{Count: count, Cause: cause, Earliest: b.last, Latest: time.Now().UnixNano()})
}

// Empty counts a packet that cannot be sent.
func (b *batcher) Empty() { b.empty++ }

// Flush hands over what was gathered, and the processor with it: the Source is
// about to wait, and the session that was woken can begin at once, on this thread.
// A Source that waits in the kernel takes the processor along until another
// thread, which has to be woken for that, or Go's monitor takes it away; and one
// that never gives way looks as if it computed all the time, so that the monitor
// comes to look every 20 µs.
func (b *batcher) Flush() {
	if b.handOver() {
		runtime.Gosched()
	}
}

// handOver says whether there was anything.
func (b *batcher) handOver() bool {
	if b.count > 0 {
		b.last = b.latest
	}
	some := b.count > 0 || b.empty > 0
	if some {
		b.seal()
		b.reset(b.queue.append(b.epoch, b.load, b.stop))
	}
	return some
}

// seal completes a frame that will hardly grow, while it is in the cache. Nobody
// else gives numbers of the epoch away.
func (b *batcher) seal() {
	if b.sealed = len(b.frame) > batchSize/2; b.sealed {
		wire.SealBatch(b.frame, wire.BatchHeader{
			First: b.epoch.next, Count: uint32(b.count), Earliest: b.earliest, Latest: b.latest,
		})
	}
}
