package broker

import (
	"errors"
	"os"
	"time"
)

// The orders, each stronger than the one before.
const (
	orderNone   int32 = iota
	orderFinish       // write what there is, then close
	orderCut          // write the rest of a record, then close
	orderGone         // the analyst is: close
	orderEvict        // close by a reset
)

// overrun is called when the ring has passed one of the cursors.
func (s *subscriber) overrun() {
	if s.terms.disconnect {
		s.command(orderEvict, time.Time{})
	}
}

// expel ends a subscriber that holds a stream back and takes nothing.
func (s *subscriber) expel(after time.Duration) {
	s.log.Warn("analyst blocks a stream and reads nothing; disconnecting", "after", after)
	s.command(orderEvict, time.Time{})
}

// command orders the subscriber to end.
func (s *subscriber) command(order int32, by time.Time) {
	s.mu.Lock()
	if order > s.order.Load() {
		s.order.Store(order)
		s.by = by
		if s.waiting {
			s.hurry(time.Unix(1, 0))
		}
	}
	s.mu.Unlock()
	s.notify()
}

// hurry sets the outlet's write deadline; for holders of mu. While somebody
// writes there must be none: it would end the connection.
func (s *subscriber) hurry(by time.Time) {
	if by.IsZero() && !s.hurried {
		return
	}
	s.hurried = !by.IsZero()
	if err := s.out.cork.SetWriteDeadline(by); err != nil {
		s.log.Debug("set write deadline", "error", err) // closed: the wait ends by itself
	}
}

// restAfter is for how long an analyst may take nothing before what is open of
// histories for it is closed.
const restAfter = time.Second

// await waits until the socket takes bytes again, or for an order, or until it
// is time to let go of histories: a file that is open takes room on the disk,
// even when it has been deleted.
func (s *subscriber) await() {
	s.mu.Lock()
	order := s.order.Load()
	if order >= orderGone {
		s.mu.Unlock()
		return
	}
	by, rests := s.by, false
	if at := time.Now().Add(restAfter); s.readsPast() && (by.IsZero() || at.Before(by)) {
		by, rests = at, true
	}
	s.waiting = true
	s.hurry(by)
	s.mu.Unlock()

	s.stalled.Store(true)
	err := s.out.cork.WaitWritable()
	s.stalled.Store(false)

	s.mu.Lock()
	s.waiting = false
	s.hurry(time.Time{})
	expired := errors.Is(err, os.ErrDeadlineExceeded)
	late := expired && s.order.Load() == order
	s.mu.Unlock()
	switch {
	case late && rests:
		s.restPast()
	case late && order == orderFinish:
		s.command(orderCut, time.Now().Add(500*time.Millisecond))
	case late:
		s.command(orderGone, time.Time{})
	case err != nil && !expired:
		s.err = err
	}
}
