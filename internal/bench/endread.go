//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// reading is what one connection has delivered.
type reading struct {
	pace int64 // bytes a second; 0 is no limit

	bytes, first, last atomic.Int64

	// Owned by the goroutine that reads.
	reads   uint
	records *recordCounter // nil: do not count
}

// readBuffers are shared by all connections, so that a thousand of them do not
// need a thousand buffers in the cache.
var readBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// readAll reads until every stream has ended, or until an order comes.
func readAll(o endOptions, streams []io.ReadWriteCloser, orders *bufio.Reader) (tally, error) {
	readings := make([]*reading, len(streams))
	var busy sync.WaitGroup
	for i, s := range streams {
		readings[i] = &reading{pace: o.pace}
		if o.packets {
			readings[i].records = newRecordCounter()
		}
		busy.Go(func() { readings[i].drain(s) })
	}
	ended := make(chan struct{})
	go func() { busy.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-told(orders):
		for _, s := range streams {
			abandon(s)
		}
		<-ended
	}
	return total(readings), nil
}

// abandon ends a stream that the sender has not ended.
func abandon(s io.Closer) {
	if q, ok := s.(quicStream); ok {
		q.hangUp()
		return
	}
	s.Close()
}

// told is closed when a line comes. Its goroutine lives as long as the process
// where none does.
func told(orders *bufio.Reader) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		if _, err := orders.ReadString('\n'); err == nil {
			close(c)
		}
	}()
	return c
}

// drain reads to the end. An error is an end too: bytes are what counts, and
// the scenarios compare them.
func (r *reading) drain(s io.ReadWriteCloser) {
	if c, ok := s.(*net.TCPConn); ok && r.pace == 0 {
		r.drainTCP(c)
	} else {
		buf := readBuffers.Get().(*[256 << 10]byte)
		for began := time.Now(); ; r.dawdle(began) {
			n, err := s.Read(buf[:])
			if n > 0 {
				r.took(buf[:n])
			}
			if err != nil {
				break
			}
		}
	}
	if q, ok := s.(quicStream); ok {
		q.hangUp()
	}
}

// dawdle waits until what was read since it began is no more than the pace
// allows.
func (r *reading) dawdle(began time.Time) {
	if r.pace > 0 {
		due := time.Duration(float64(r.bytes.Load()) / float64(r.pace) * 1e9)
		time.Sleep(due - time.Since(began))
	}
}

// drainTCP borrows a buffer only while there is something to read.
func (r *reading) drainTCP(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) (done bool) {
		buf := readBuffers.Get().(*[256 << 10]byte)
		defer readBuffers.Put(buf)
		for {
			n, err := unix.Read(int(fd), buf[:])
			if n <= 0 { // the poller tells of edges, so nothing must be left
				return !errors.Is(err, unix.EAGAIN)
			}
			r.took(buf[:n])
		}
	})
}

func (r *reading) took(p []byte) {
	if r.records != nil {
		r.records.feed(p)
	}
	if r.bytes.Add(int64(len(p))) == int64(len(p)) {
		r.first.Store(time.Now().UnixNano())
	}
	r.reads++
	if len(p) >= 4096 || r.reads%16 == 0 { // the clock is not free, and small reads are many
		r.last.Store(time.Now().UnixNano())
	}
}

func total(readings []*reading) tally {
	t := tally{Least: readings[0].bytes.Load()}
	for _, r := range readings {
		n, first, last := r.bytes.Load(), r.first.Load(), r.last.Load()
		t.Bytes += n
		t.Least = min(t.Least, n)
		t.Last = max(t.Last, last, first)
		if first > 0 && (t.First == 0 || first < t.First) {
			t.First = first
		}
		if r.records != nil {
			t.Packets += r.records.n
		}
	}
	return t
}

// recordCounter counts the records of a pcap stream that comes in any pieces.
type recordCounter struct {
	n    int64
	head [pcap.FileHeaderLen]byte
	have int // bytes of head
	want int // bytes that head needs
	skip int // bytes of packet data to come
}

func newRecordCounter() *recordCounter { return &recordCounter{want: pcap.FileHeaderLen} }

func (c *recordCounter) feed(p []byte) {
	for len(p) > 0 {
		if n := min(c.skip, len(p)); n > 0 {
			p, c.skip = p[n:], c.skip-n
			continue
		}
		n := copy(c.head[c.have:c.want], p)
		p, c.have = p[n:], c.have+n
		if c.have < c.want {
			return
		}
		if c.want == pcap.RecordHeaderLen {
			c.skip = int(binary.LittleEndian.Uint32(c.head[8:]))
			c.n++
		}
		c.have, c.want = 0, pcap.RecordHeaderLen
	}
}

// readDelays reads a pcap stream of the generator's frames, and notes how old
// each was when it could be read.
func readDelays(s io.ReadWriteCloser, orders *bufio.Reader) (tally, error) {
	stop := told(orders)
	go func() { <-stop; s.Close() }()
	var t tally
	in := bufio.NewReaderSize(s, 256<<10)
	if _, err := io.ReadFull(in, make([]byte, pcap.FileHeaderLen)); err != nil {
		return t, nil // stopped before anything came
	}
	header, frame := make([]byte, pcap.RecordHeaderLen), make([]byte, pcap.MaxCaptured)
	for {
		if _, err := io.ReadFull(in, header); err != nil {
			break
		}
		data := frame[:min(binary.LittleEndian.Uint32(header[8:]), pcap.MaxCaptured)]
		if _, err := io.ReadFull(in, data); err != nil {
			break
		}
		now := time.Now()
		if _, sent, ok := poiptest.Stamps(data); ok {
			t.Delays = append(t.Delays, now.Sub(sent).Seconds()*1e3)
			t.Packets++
		}
	}
	slices.Sort(t.Delays)
	return t, nil
}
