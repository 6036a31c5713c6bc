package broker

import (
	"time"

	"poip/internal/wire"
)

// This file is what a session has in its care, and so may acknowledge: all that
// came or, where the stream has a history, what is safe on disk.

const (
	// carePoll is how often a session looks whether the disk has what came.
	carePoll = 10 * time.Millisecond

	// careLimit bounds how long an agent that returns waits for the disk to have
	// what it sent before. What the disk has not then is sent again.
	careLimit = time.Second
)

// care returns the number below which everything is in our care, as far as the
// agent has sent it in this conversation, and whether that is all that came.
func (s *session) care() (next wire.PacketNumber, all bool) {
	h := s.ring.history
	if h == nil || h.settled() {
		return min(s.position, s.seen), true
	}
	s.epoch.safe = max(s.epoch.safe, h.safe(s.epoch.id))
	return max(s.acked, min(s.epoch.safe, s.seen)), false
}

// careFrom is the position that a hello is answered with. The agent forgets
// what is below, so it is nothing that the disk may not have.
func (s *session) careFrom(oldest wire.PacketNumber) wire.PacketNumber {
	h := s.ring.history
	if h == nil || h.settled() {
		return s.position
	}
	s.epoch.safe = max(s.epoch.safe, h.safe(s.epoch.id))
	return max(oldest, s.epoch.safe)
}

// store hands a batch to the history. It returns the stamp to commit it with; 0
// where there is no history.
func (s *session) store(header, records []byte) (arrival uint64) {
	h := s.ring.history
	if h == nil {
		return 0
	}
	s.enter(h)
	arrival = s.ring.announce()
	h.journal.Append(header, records, int64(arrival))
	s.epoch.latest = max(s.epoch.latest, wire.ParseBatchHeader(header).Latest)
	return arrival
}

func (s *session) storeGap(g wire.Gap) {
	if h := s.ring.history; h != nil {
		s.enter(h)
		h.journal.Gap(g, int64(stamp(s.ring.arrivals)))
	}
}

// storeEnd hands an end to the history, unless that has it from an earlier
// conversation.
func (s *session) storeEnd(e wire.End) {
	if h := s.ring.history; h != nil && (!s.epoch.ended || e.Final && !s.epoch.final) {
		s.enter(h)
		h.journal.End(e.Final, int64(stamp(s.ring.arrivals)))
		s.epoch.ended, s.epoch.final = true, e.Final
	}
}

// enter has the history know what the next entry belongs to.
func (s *session) enter(h *history) {
	if !s.entered {
		s.entered, s.epoch.ended = true, false
		h.journal.Begin(s.epoch.about, s.position)
	}
}

// holder is the reader that holds the stream back, and since when.
func (s *session) holder() (*cursor, time.Time) {
	if h := s.ring.history; h != nil {
		return h.holder()
	}
	return s.ring.trim()
}

// awaitDisk takes nothing more while more waits for the disk than an agent may
// have on its way, which keeps to its window, or as much has come already while
// a reader holds the history.
func (s *session) awaitDisk(h *history) error {
	if h == nil || h.pending() <= s.mostPending() && s.overdrawn(h) == nil {
		return nil
	}
	s.publish()
	for begin := time.Now(); ; time.Sleep(carePoll) {
		now, holder := time.Now(), s.overdrawn(h)
		switch {
		case h.pending() <= s.mostPending() && holder == nil:
			s.heard = time.Now() // we have not listened
			return nil
		case s.stop.Load() != 0:
			return errStopped
		case now.Sub(begin) < wire.Idle:
		case h.trouble() != nil:
			return refuse(wire.CodeLimit, "the history cannot be written")
		case holder != nil: // for what came in earlier epochs and sessions
			return refuse(wire.CodeLimit, "an analyst holds the stream back")
		case s.state != streaming: // what waits is of earlier epochs and sessions
			return refuse(wire.CodeLimit, "the disk of the history does not keep up")
		default:
			return refuse(wire.CodeProtocol, "more than the window of %d bytes is unacknowledged", s.window)
		}
	}
}

// overdrawn returns the reader who holds the history where that has grown by
// more than may be on its way, nil if there is none; and judges him.
func (s *session) overdrawn(h *history) *cursor {
	c, since := h.holder()
	if c == nil || h.excess() <= s.mostPending() {
		return nil
	}
	s.judgeHolder(c, since, time.Now())
	return c
}

// mostPending allows for what the index of many small batches takes, and for
// one conversation before this one.
func (s *session) mostPending() int64 { return 2*int64(s.window) + wire.MaxBatchLen }
