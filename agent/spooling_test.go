package agent

import (
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"poip/internal/wire"
)

// spooledQueue is a queue and its spool, which no goroutine runs.
func spooledQueue(t *testing.T, dir string, memory int64) (*queue, *spool) {
	t.Helper()
	q := newQueue(newMemory(memory), OverflowDropOldest)
	c := spoolConfig{share: &diskShare{limit: 64 << 20}, overflow: OverflowDropOldest, sync: SyncBatch}
	s, err := openSpool(dir, newTestDisk(t, dir, new(atomic.Int64)), q, c, "s/eth0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return q, s
}

// recovered is what an agent finds of an epoch that an earlier run has captured.
func recovered(t *testing.T, capture func(*batcher)) (*queue, *spool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spool")
	q, s := spooledQueue(t, dir, 8<<20)
	ep := q.begin(wire.Hello{Epoch: wire.Epoch{1}})
	sink := newBatcher(q, ep, nil)
	capture(sink)
	sink.Flush()
	q.close(ep, false)
	q.end()
	s.finish()
	q, s = spooledQueue(t, dir, 8<<20)
	t.Cleanup(s.finish)
	q.end()
	return q, s
}

// sendOne reads back from disk what is there only, and sends one item.
func sendOne(t *testing.T, s *spool, ep *epoch) *item {
	t.Helper()
	for {
		switch what, it := s.queue.take(ep); what {
		case sendItem:
			return it
		case readSpool:
			if err := s.load(ep); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("delivery %d, want an item", what)
		}
	}
}

// TestARelayThatIsAheadOfAGapOfUnknownCount was told of a recovered epoch by an
// earlier run, and knows more of it than the relay before.
func TestARelayThatIsAheadOfAGapOfUnknownCount(t *testing.T) {
	q, s := recovered(t, func(sink *batcher) {
		packets(sink, 0, 100, 1400)
		sink.Lost(0, wire.CauseCaptureRestart)
		packets(sink, 100, 100, 1400)
	})
	ep, _ := q.greet(0)
	if err := q.resume(0, 1<<30); err != nil {
		t.Fatal(err)
	}
	sendOne(t, s, ep)
	q.greet(0)
	if err := q.resume(200, 1<<30); err != nil {
		t.Fatal(err)
	}
	if what, _ := q.take(ep); what != sendEnd {
		t.Errorf("delivery %d, with %+v at the head; want the end", what, ep.head)
	}
	if total := q.totals(); total.acknowledged != 200 || total.held() != 0 || total.bytes != 0 || q.sentSize != 0 {
		t.Errorf("counted %+v, %d bytes are sent", total, q.sentSize)
	}
}

// TestAGapOfUnknownCountIsToldAtTheEnd of an epoch of which the relay has all
// that has a number: nobody knows whether it has the gap.
func TestAGapOfUnknownCountIsToldAtTheEnd(t *testing.T) {
	q, s := recovered(t, func(sink *batcher) {
		packets(sink, 0, 100, 1400)
		sink.Lost(0, wire.CauseCaptureRestart)
	})
	ep, _ := q.greet(0)
	if err := q.resume(100, 1<<30); err != nil {
		t.Fatal(err)
	}
	if it := sendOne(t, s, ep); !it.isGap() || it.first != 100 || it.count != 0 || it.cause != wire.CauseCaptureRestart {
		t.Errorf("sent %+v, want the gap", it)
	}
	if what, _ := q.take(ep); what != sendEnd {
		t.Errorf("delivery %d, want the end", what)
	}
}
