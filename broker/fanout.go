package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// inlineReaders is up to how many readers the intake writes to itself:
	// waking an idle goroutine on another core costs more than a write.
	inlineReaders = 4

	// inlineTLS is up to how many bytes that holds for readers over TLS: to
	// encrypt more is work for another core.
	inlineTLS = 64 << 10

	// Many readers are woken more seldom, the more there are: delay is traded
	// for cost. A thousand wait 30 ms.
	wakeDelayEach = 30 * time.Microsecond
	maxWakeDelay  = 40 * time.Millisecond
)

// A fanout tells the readers of one ring that there is more to read.
type fanout struct {
	list atomic.Pointer[[]*subscriber] // never changed, only replaced; that under mu

	mu    sync.Mutex
	last  time.Time // when the readers were woken
	armed bool      // the timer is going to wake them
	timer *time.Timer
}

func (f *fanout) readers() []*subscriber {
	if list := f.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (f *fanout) add(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := append(slices.Clone(f.readers()), s)
	f.list.Store(&list)
}

func (f *fanout) remove(s *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(f.readers()), func(r *subscriber) bool { return r == s })
	f.list.Store(&list)
	if len(list) == 0 && f.timer != nil {
		f.timer.Stop()
		f.armed = false
	}
}

// publish serves few readers on the spot, and wakes many: at once when there
// is much to read, else when the last time is long enough ago. It never waits.
func (f *fanout) publish(unread int) {
	readers := f.readers()
	switch {
	case len(readers) == 0:
	case len(readers) <= inlineReaders:
		for _, s := range readers {
			if s.out.tls != nil && unread > inlineTLS {
				s.notify()
			} else {
				s.serve()
			}
		}
	case unread >= segmentLen || f.due(len(readers)):
		for _, s := range readers {
			s.notify()
		}
	}
}

// due says whether the readers may be woken now, and sees that they are woken
// later where not.
func (f *fanout) due(readers int) bool {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed {
		return false
	}
	wait := min(time.Duration(readers)*wakeDelayEach, maxWakeDelay) - now.Sub(f.last)
	if wait <= 0 {
		f.last = now
		return true
	}
	f.armed = true
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, f.wake)
	} else {
		f.timer.Reset(wait)
	}
	return false
}

// wake is what the timer runs. It does not wait for anything.
func (f *fanout) wake() {
	f.mu.Lock()
	f.armed, f.last = false, time.Now()
	f.mu.Unlock()
	f.all()
}

// all wakes every reader, to look at more than just new packets.
func (f *fanout) all() {
	for _, s := range f.readers() {
		s.notify()
	}
}
