package agent

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

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
