package broker

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"poip/internal/pcap"
	"poip/internal/transport"
)

func TestManyReadersAreWokenSeldom(t *testing.T) {
	for _, c := range []struct {
		readers int
		every   time.Duration
	}{{10, 300 * time.Microsecond}, {100, 3 * time.Millisecond}, {1000, 30 * time.Millisecond}, {5000, maxWakeDelay}} {
		synctest.Test(t, func(t *testing.T) {
			var f fanout
			wakes := 0
			last := f.last
			look := func() {
				if f.mu.Lock(); f.last != last {
					wakes++
					last = f.last
				}
				f.mu.Unlock()
			}
			for range 10000 { // a second
				f.due(c.readers)
				look()
				time.Sleep(100 * time.Microsecond)
				synctest.Wait()
				look()
			}
			if most := int(time.Second/c.every) + 2; wakes > most || wakes < most*9/10 {
				t.Errorf("%d readers were woken %d times in a second, want %d", c.readers, wakes, most)
			}
			published := time.Now()
			f.due(c.readers)
			time.Sleep(c.every)
			synctest.Wait()
			if f.last.Before(published) {
				t.Errorf("%d readers were not told of the last packet", c.readers)
			}
		})
	}
}

// testSubscriber is a subscriber at the one end of a connection, and the other end.
func testSubscriber(t *testing.T, arrivals *atomic.Uint64) (*subscriber, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near.(*net.TCPConn).SetWriteBuffer(16 << 10) // full often
	s := &subscriber{
		terms: terms{form: form{snaplen: 65535}},
		out:   newOutlet(near, transport.NewCork(near, smallChunk), nil, smallChunk),
		tally: newTally(), log: slog.New(slog.DiscardHandler), arrivals: arrivals,
		handed: make(chan struct{}, 1),
	}
	s.role.Store(taken)
	return s, far
}

// TestTheRoleIsNeverLost has several rings publish to subscribers that are
// written to inline and by their own goroutines, taking turns as it comes.
func TestTheRoleIsNeverLost(t *testing.T) {
	const rings, readers, packets = 4, 3, 4000
	var arrivals atomic.Uint64
	var subscribers []*subscriber
	var runs, reads sync.WaitGroup
	got := make([]int64, readers)
	var all []*ring
	for range rings {
		all = append(all, newRing(pcap.LinkEthernet, 64<<20, &arrivals))
	}
	for i := range readers {
		s, far := testSubscriber(t, &arrivals)
		subscribers = append(subscribers, s)
		for _, r := range all {
			s.meet(r, atOldest)
		}
		runs.Go(s.run)
		reads.Go(func() { got[i], _ = io.Copy(io.Discard, far); far.Close() })
		s.handOver()
	}
	var sessions sync.WaitGroup
	for _, r := range all {
		sessions.Go(func() {
			for i := range uint64(packets) {
				record := numbered(i, 8+rand.IntN(400))
				copy(r.reserve(len(record)), record)
				r.commit(len(record), 1)
				if i == packets-1 || rand.IntN(3) == 0 {
					r.readers.publish(len(record))
				}
			}
		})
	}
	sessions.Wait()
	deadline := time.Now().Add(patience)
	for _, s := range subscribers {
		for s.sent.Load() != rings*packets {
			if time.Now().After(deadline) {
				offered, _ := s.offered()
				t.Fatalf("sent %d of %d, role %d", s.sent.Load(), offered, s.role.Load())
			}
			time.Sleep(time.Millisecond)
		}
		s.command(orderFinish, deadline)
	}
	runs.Wait()
	for _, s := range subscribers {
		s.out.conn.Close()
	}
	reads.Wait()
	for i, s := range subscribers {
		if uint64(got[i]) != s.sentBytes.Load()+pcap.FileHeaderLen {
			t.Errorf("reader %d got %d bytes, sent were %d", i, got[i], s.sentBytes.Load())
		}
	}
}
