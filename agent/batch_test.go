package agent

import (
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A Source that waits in the kernel keeps its processor, and a session that has
// none is found by Go's monitor only, some time later.
func TestSessionGoesFirstAfterFlush(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	q := newQueue(newMemory(1<<20), OverflowDropOldest)
	sink := newBatcher(q, q.begin(wire.Hello{}), nil)
	<-q.wake // for the epoch
	quit := make(chan struct{})
	var woken atomic.Int64
	var session sync.WaitGroup
	session.Go(func() {
		for {
			select {
			case <-q.wake:
				woken.Add(1)
			case <-quit:
				return
			}
		}
	})
	runtime.Gosched() // until it waits
	const rounds = 1000
	first := 0
	for i := range rounds {
		sink.Packet(1, 0, 1, []byte{1})
		sink.Flush()
		if woken.Load() == int64(i+1) {
			first++
		} else {
			for woken.Load() <= int64(i) {
				runtime.Gosched()
			}
		}
	}
	close(quit)
	session.Wait()
	if first < rounds*9/10 { // not all: the runtime has goroutines of its own
		t.Errorf("of %d times the session went first %d times", rounds, first)
	}
}

// TestRecordsInPlaceMakeTheSameBatches as the packets one by one.
func TestRecordsInPlaceMakeTheSameBatches(t *testing.T) {
	var records [][]byte
	for i := range uint32(300) {
		records = append(records, pcap.AppendRecord(nil, 1000-i%7, i, 2000, make([]byte, 1+i*3)))
	}
	frames := func(put func(*batcher, []byte)) (frames [][]byte) {
		q := newQueue(newMemory(64<<20), OverflowBlock)
		ep := q.begin(wire.Hello{})
		accept(t, q, 1<<30)
		sink := newBatcher(q, ep, nil)
		for i, r := range records {
			put(sink, r)
			if i%50 == 49 { // where both begin a batch
				sink.Flush()
				what, it := q.take(ep)
				if what != sendItem {
					t.Fatalf("delivery %d", what)
				}
				frames = append(frames, slices.Clone(q.sealed(it)))
			}
		}
		return frames
	}
	want := frames(func(b *batcher, r []byte) {
		sec, nsec, _, original := pcap.Record(r)
		b.Packet(sec, nsec, original, r[pcap.RecordHeaderLen:])
	})
	got := frames(func(b *batcher, r []byte) {
		sec, nsec, _, _ := pcap.Record(r)
		at := int64(sec)*1e9 + int64(nsec)
		b.Records(pcap.Run{Len: copy(b.Room(), r), Count: 1, Earliest: at, Latest: at})
	})
	if len(want) != 6 || !reflect.DeepEqual(got, want) {
		t.Error("the batches differ")
	}
}

// TestRoomIsWhatABatchHasLeft: a batch that is half full is handed over instead.
func TestRoomIsWhatABatchHasLeft(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowBlock)
	sink := newBatcher(q, q.begin(wire.Hello{}), nil)
	record := pcap.AppendRecord(nil, 1, 2, 30000, make([]byte, 30000))
	for i, want := range []int{batchSize - wire.BatchPrefixLen, batchSize - wire.BatchPrefixLen - len(record), batchSize - wire.BatchPrefixLen} {
		if got := len(sink.Room()); got != want {
			t.Errorf("room %d is of %d bytes, want %d", i, got, want)
		}
		sink.Records(pcap.Run{Len: copy(sink.Room(), record), Count: 1, Earliest: 1, Latest: 1})
	}
	sink.Flush()
	if got := q.totals(); got.captured != 3 {
		t.Errorf("%d packets", got.captured)
	}
}
