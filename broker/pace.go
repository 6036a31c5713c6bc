package broker

import (
	"errors"
	"fmt"
	"os"
	"time"

	"poip/internal/wire"
)

// This file is when a session speaks, waits and gives up. Its clock is the
// read deadline of the connection: whatever is due next is set as deadline
// before a Read waits, and done when that has passed.

// Read reads from the agent for as long as it is alive, and sends signs of
// life meanwhile.
func (s *session) Read(p []byte) (int, error) {
	for {
		n, err := s.conn.Read(p)
		if n > 0 {
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		s.listen()
		if err := s.tick(time.Now()); err != nil {
			return 0, err
		}
		s.arm() // a Read whose deadline has passed fails without looking
	}
}

// beforeWait is called when everything that has arrived was read: what there
// is goes to the analysts, and the next deadline is set.
func (s *session) beforeWait() {
	s.publish()
	s.listen()
	s.arm()
}

// listen notes when something arrived last, be it a part of what a Read waits
// for. It is asked seldom, so that reading costs no look at the clock.
func (s *session) listen() {
	if n := s.conn.Arrived(); n != s.arrived {
		s.heard, s.arrived = time.Now(), n
	}
}

// arm sets the read deadline to when the next thing is due.
func (s *session) arm() {
	if err := s.conn.SetReadDeadline(s.due()); err != nil {
		s.log.Debug("set read deadline", "error", err) // closed: the Read says so
	}
	if s.stop.Load() != 0 {
		_ = s.conn.SetReadDeadline(time.Now()) // what interrupt did, in case ours came after it
	}
}

// due is when the next thing has to be done.
func (s *session) due() time.Time {
	if s.state == greeting {
		return s.deadline
	}
	at := earlier(s.heard.Add(wire.Idle), s.spoke.Add(wire.SignOfLife))
	if !s.held.IsZero() {
		at = earlier(at, time.Now().Add(holdPoll))
	} else if !s.owed.IsZero() {
		at = earlier(at, s.owed.Add(ackDelay))
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// tick does what is due.
func (s *session) tick(now time.Time) error {
	switch {
	case s.stop.Load() != 0:
		return errStopped
	case s.state == greeting && !now.Before(s.deadline):
		return errNoHello
	case s.state == greeting:
		return nil
	case now.Sub(s.heard) >= wire.Idle:
		return errIdle
	case s.certificate.Load() != nil:
		return s.sign()
	case s.state == closing:
		return s.conclude(now)
	case !s.held.IsZero():
		return s.checkHold(now)
	case !s.owed.IsZero() && now.Sub(s.owed) >= ackDelay:
		return s.ack()
	case now.Sub(s.spoke) >= wire.SignOfLife:
		return s.sign()
	}
	return nil
}

// publish tells the readers of what was committed.
func (s *session) publish() {
	if s.unread > 0 {
		s.ring.readers.publish(s.unread)
		s.unread = 0
	}
}

// owe notes that n bytes of frames wait for an ack.
func (s *session) owe(n int) {
	s.unacked += n
	if s.owed.IsZero() {
		s.owed = time.Now()
	}
}

// settle notes that all that is in our care is acknowledged, and when to look
// for more where that is not all that came.
func (s *session) settle() {
	s.unacked, s.owed = 0, time.Time{}
	var all bool
	if s.acked, all = s.care(); !all {
		s.owed = time.Now().Add(carePoll - ackDelay)
	}
}

// ack acknowledges what is in our care, unless blocking readers hold the stream
// back: an agent without acks stops by itself at the end of its window.
func (s *session) ack() error {
	if c, _ := s.holder(); c != nil {
		if s.held.IsZero() {
			s.held = time.Now()
			s.ring.readers.publish(segmentLen)
		}
		return nil
	}
	s.held = time.Time{}
	before := s.acked
	if s.settle(); s.acked == before && !s.owed.IsZero() {
		return nil // the disk is not there yet
	}
	return s.sign()
}

// sign repeats the last ack.
func (s *session) sign() error {
	s.out = s.announce(wire.AppendAck(s.out[:0], wire.Ack{Next: s.acked}))
	return s.write()
}

// checkHold looks whether a stream that is held may go on, and whether who
// holds it takes anything.
func (s *session) checkHold(now time.Time) error {
	c, since := s.holder()
	if c == nil {
		return s.ack()
	}
	s.judgeHolder(c, since, now)
	if now.Sub(s.spoke) >= wire.SignOfLife {
		return s.sign()
	}
	return nil
}

// judgeHolder sends home who holds the stream back and takes nothing.
func (s *session) judgeHolder(c *cursor, since, now time.Time) {
	if moved := time.Unix(0, c.owner.progress.Load()); moved.After(since) {
		since = moved
	}
	if now.Sub(since) >= s.block {
		c.owner.expel(s.block)
	}
}

// makeWay is called before the ring's oldest segment goes. It has readers
// catch up that are behind by no fault of their own, within bounds: slow ones
// are not waited for.
func (s *session) makeWay() error {
	if c, since := s.ring.trim(); c != nil {
		s.judgeHolder(c, since, time.Now())
		switch {
		case s.unacked > s.window+wire.MaxBatchLen:
			return refuse(wire.CodeProtocol, "more than the window of %d bytes is unacknowledged", s.window)
		case s.ring.excess() > 2*s.window+wire.MaxBatchLen: // of earlier epochs and sessions
			return refuse(wire.CodeLimit, "an analyst holds the stream back")
		}
	}
	s.publish()
	for begin := time.Now(); ; {
		now := time.Now()
		left := -now.Sub(begin)
		switch starved, most := s.ring.danger(now); {
		case starved:
			left += starveLimit
		case most:
			left += paceLimit
		}
		if left <= 0 {
			return nil
		}
		s.ring.waitMoved(min(left, time.Millisecond))
	}
}

// write sends what is in out, for as long as the agent takes any of it.
func (s *session) write() error {
	s.spoke = time.Now()
	_ = s.conn.SetWritePatience(wire.Idle) // an error shows in the write
	if s.stop.Load() != 0 {
		_ = s.conn.SetWriteDeadline(s.spoke.Add(farewell)) // what interrupt did, in case ours came after it
	}
	return s.send()
}

func (s *session) send() error {
	if _, err := s.conn.Write(s.out); err != nil {
		return fmt.Errorf("answer agent: %w", err)
	}
	if err := s.conn.Flush(); err != nil {
		return fmt.Errorf("answer agent: %w", err)
	}
	return nil
}
