package agent

import (
	"sync/atomic"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// batchSize is what a batch frame grows to, in bytes: four fill a segment of the
// relay's ring.
const batchSize = 64 << 10

// bufferSizes are the capacities in which frames are held. A frame that was
// closed early moves to the smallest that fits, so that a thousand small ones
// in flight do not take a thousand large buffers. Beyond batchSize they hold
// one packet each: 72 KiB what the kernel makes of segments (GRO), the last
// the largest there is.
var bufferSizes = [...]int{512, 2 << 10, 8 << 10, 32 << 10, batchSize, 72 << 10, largestFrame}

const largestFrame = wire.BatchPrefixLen + pcap.MaxRecordLen

// maxFree bounds the bytes of buffers that are kept for the next frames. Each of
// several streams of a capture keeps a part only.
const maxFree = 4 << 20

// buffers hands out frames' buffers and takes them back. It belongs to a queue
// and is guarded by its mu.
type buffers struct {
	memory *memory
	free   [len(bufferSizes)][][]byte
	bytes  int // in free
}

// get returns an empty buffer that holds at least n bytes.
func (b *buffers) get(n int) []byte {
	class := classOf(n)
	stack := b.free[class]
	if len(stack) == 0 {
		return make([]byte, 0, bufferSizes[class])
	}
	last := len(stack) - 1
	buf := stack[last]
	b.free[class], stack[last] = stack[:last], nil
	b.bytes -= cap(buf)
	return buf[:0]
}

// put takes a buffer back.
func (b *buffers) put(buf []byte) {
	if int64(b.bytes+cap(buf)) > maxFree/b.memory.streams.Load() {
		return
	}
	class := classOf(cap(buf))
	b.free[class] = append(b.free[class], buf)
	b.bytes += cap(buf)
}

// classOf returns the smallest class of buffers that hold n bytes.
func classOf(n int) int {
	for class, size := range bufferSizes {
		if n <= size {
			return class
		}
	}
	panic("agent: a frame is larger than a frame can be")
}

// memory is what the streams of one capture may hold together, in bytes.
type memory struct {
	limit   int64
	ahead   int64 // the most that may wait to be sent; 0: no less than the limit
	used    atomic.Int64
	sent    atomic.Int64 // of these, what sent items take
	streams atomic.Int64
	freed   chan struct{} // one waits at most: whoever runs the capture's Source
}

func newMemory(limit int64) *memory {
	return &memory{limit: limit, freed: make(chan struct{}, 1)}
}

// full says whether n bytes more are too many. Something always fits into
// nothing, so that no frame is too large for a small memory.
func (m *memory) full(n int64) bool {
	used := m.used.Load()
	unsent := used - m.sent.Load()
	return used > 0 && used+n > m.limit || m.ahead > 0 && unsent > 0 && unsent+n > m.ahead
}

// scarce says that what is to leave memory cannot wait until the disk has more
// to confirm at once: of several streams each one waits for that by itself.
func (m *memory) scarce() bool { return m.used.Load() > m.limit*3/4 }

// share is what each of several streams may hold even if the others take all
// the rest, so that one which no relay wants does not cost the others theirs.
// (It may have them exceed the limit by half, until it drops what is too much.)
func (m *memory) share() int64 {
	if n := m.streams.Load(); n > 1 {
		return m.limit / 2 / n
	}
	return 0
}

func (m *memory) add(n int64) { m.used.Add(n) }

// chargeSent counts what sent items take of it. A capture that is so far ahead that
// it waits is woken when half of that is sent: to wake it costs more than a batch.
func (m *memory) chargeSent(n int64) {
	sent := m.sent.Add(n)
	if n > 0 && m.ahead > 0 && m.used.Load()-sent <= m.ahead/2 {
		m.signal()
	}
}

func (m *memory) release(n int64) {
	m.used.Add(-n)
	m.signal()
}

func (m *memory) signal() {
	select {
	case m.freed <- struct{}{}:
	default:
	}
}
