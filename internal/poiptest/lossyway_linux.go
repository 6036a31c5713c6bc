package poiptest

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// lossyWay is one direction of a LossyLink: it reads packets from one device,
// throws the dice, and writes the others to the other device when their time
// has come.
type lossyWay struct {
	in, out *os.File // set once

	// Set once.
	nanosPerByte float64
	delay        time.Duration
	holdBack     time.Duration
	maxBacklog   time.Duration // the queue, as the time that it takes to send it

	loss    atomic.Uint64 // see chance
	reorder atomic.Uint64
	down    atomic.Bool

	delivered, lost, dropped atomic.Uint64

	// Owned by read.
	dice *rand.Rand
	free time.Time // when the last accepted packet will have left

	mu     sync.Mutex
	queue  arrivals // guarded by mu
	closed bool     // guarded by mu
	wake   *sync.Cond
}

func newLossyWay(in, out *os.File, cfg LossyConfig) *lossyWay {
	w := &lossyWay{
		in: in, out: out,
		delay:      cfg.RTT / 2,
		holdBack:   cfg.RTT / 8,
		maxBacklog: cfg.RTT,
		dice:       rand.New(rand.NewPCG(cfg.Seed, 0)),
	}
	if cfg.Bandwidth > 0 {
		w.nanosPerByte = 8e9 / float64(cfg.Bandwidth)
	}
	if cfg.Queue > 0 {
		w.maxBacklog = w.onWire(cfg.Queue)
	}
	w.loss.Store(chance(cfg.Loss))
	w.reorder.Store(chance(cfg.Reorder))
	w.wake = sync.NewCond(&w.mu)
	return w
}

// chance turns a probability into a bound for 63-bit dice.
func chance(p float64) uint64 { return uint64(min(max(p, 0), 1) * math.MaxInt64) }

func (w *lossyWay) falls(bound *atomic.Uint64) bool { return uint64(w.dice.Int64()) < bound.Load() }

// onWire is how long n bytes take at the link's bandwidth.
func (w *lossyWay) onWire(n int) time.Duration {
	return time.Duration(float64(n) * w.nanosPerByte)
}

// read takes packets from the device until it is closed.
func (w *lossyWay) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := w.in.Read(buf)
		if err != nil {
			return
		}
		if crossAddresses(buf[:n]) {
			w.accept(buf[:n])
		}
	}
}

// accept decides what becomes of one packet. A packet lost by the dice has
// used its bandwidth, as on a real link.
func (w *lossyWay) accept(packet []byte) {
	now := time.Now()
	start := now
	if w.free.After(now) {
		start = w.free
	}
	if w.nanosPerByte > 0 && start.Sub(now) > w.maxBacklog {
		w.dropped.Add(1)
		return
	}
	w.free = start.Add(w.onWire(len(packet)))
	if w.down.Load() || w.falls(&w.loss) {
		w.lost.Add(1)
		return
	}
	due := w.free.Add(w.delay)
	if w.falls(&w.reorder) {
		due = due.Add(w.holdBack)
	}
	w.push(arrival{due, append([]byte(nil), packet...)})
}

func (w *lossyWay) push(a arrival) {
	w.mu.Lock()
	defer w.mu.Unlock()
	heap.Push(&w.queue, a)
	w.wake.Signal()
}

// write delivers packets until the way is closed.
func (w *lossyWay) write() {
	for {
		a, ok := w.next()
		if !ok {
			return
		}
		if _, err := w.out.Write(a.packet); err == nil {
			w.delivered.Add(1)
		} else {
			w.lost.Add(1)
		}
	}
}

// next waits for the packet that is due first. It sleeps in the kernel, whose
// clock is finer than that of Go's timers, and only for short, because a
// packet may overtake one that is held back.
func (w *lossyWay) next() (arrival, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.queue) == 0 && !w.closed {
			w.wake.Wait()
		}
		if w.closed {
			return arrival{}, false
		}
		wait := time.Until(w.queue[0].due)
		if wait <= 0 {
			return heap.Pop(&w.queue).(arrival), true
		}
		w.mu.Unlock()
		pause := unix.NsecToTimespec(int64(min(wait, 500*time.Microsecond)))
		unix.Nanosleep(&pause, nil)
		w.mu.Lock()
	}
}

func (w *lossyWay) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.wake.Broadcast()
}

func (w *lossyWay) stats() LossyStats {
	return LossyStats{Delivered: w.delivered.Load(), Lost: w.lost.Load(), Dropped: w.dropped.Load()}
}

// crossAddresses changes an IPv4 packet from what the sender's side calls the
// two ends to what the receiver's side calls them: the last byte of the source
// from 1 to 2 and that of the destination from 2 to 1. The sum of the bytes
// stays, and with it every checksum. It reports whether this was a packet
// between the two ends.
func crossAddresses(packet []byte) bool {
	const source, destination = 15, 19 // last bytes of the addresses
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[source] != 1 || packet[destination] != 2 {
		return false
	}
	packet[source], packet[destination] = 2, 1
	if inner := icmpInner(packet); len(inner) >= 20 && inner[source] == 2 && inner[destination] == 1 {
		inner[source], inner[destination] = 1, 2
	}
	return true
}

// icmpInner returns the packet that an ICMP error quotes, which the receiver
// once sent.
func icmpInner(packet []byte) []byte {
	const unreachable, timeExceeded = 3, 11
	header := int(packet[0]&15) * 4
	if packet[9] != unix.IPPROTO_ICMP || len(packet) < header+8 {
		return nil
	}
	if kind := packet[header]; kind != unreachable && kind != timeExceeded {
		return nil
	}
	return packet[header+8:]
}

// arrival is a packet on its way.
type arrival struct {
	due    time.Time
	packet []byte
}

// arrivals is a heap, the packet that is due first on top.
type arrivals []arrival

func (q arrivals) Len() int           { return len(q) }
func (q arrivals) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q arrivals) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *arrivals) Push(x any)        { *q = append(*q, x.(arrival)) }
func (q *arrivals) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
