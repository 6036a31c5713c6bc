package broker

import (
	"errors"
	"net"
	"slices"
	"time"

	"poip/internal/pcap"
)

// This file is how a subscriber comes and goes. How it writes is in
// subscriber.go.

// How long an analyst's own end is waited for after ours, and how long when the
// relay shuts down. A socket that is closed while it holds unread input is
// reset, and takes with it what was still on its way out.
const (
	lingerTime     = 5 * time.Second
	lastLingerTime = time.Second
)

// meet shows the subscriber a ring that its listener offers. The first one
// decides the link type, once and for all; of others than that the packets
// are only counted, and meet returns false.
func (s *subscriber) meet(r *ring, from outset) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.linked {
		s.linked, s.link = true, r.link
		s.header = pcap.AppendFileHeader(nil, r.link, s.terms.form.snaplen, s.terms.form.nano)
	}
	if s.link != r.link {
		s.leaveOut(r)
		return false
	}
	c := &cursor{owner: s, blocks: s.terms.block}
	r.attach(c, s.terms.form, from)
	r.readers.add(s)
	s.arriving = append(s.arriving, c)
	s.news.Store(true)
	return true
}

// maxLeftOut bounds how many rings a subscriber counts one by one. A stream
// that changes its link type makes a new one each time.
const maxLeftOut = 4096

// maxOutdated bounds how many rings a subscriber has yet to read to their end
// that others have taken the place of. A stream that changes its link type there
// and back leaves one each time, and who takes nothing drops none.
const maxOutdated = 1024

// all are the cursors, adopted or not; for holders of mu.
func (s *subscriber) all() []*cursor { return slices.Concat(s.cursors, s.arriving) }

// outdated counts the rings that get nothing any more.
func (s *subscriber) outdated() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all() {
		if c.ring.replaced.Load() {
			n++
		}
	}
	return n
}

// leaveOut begins to count the packets of a ring; for holders of mu.
func (s *subscriber) leaveOut(r *ring) {
	if len(s.leftOut) == maxLeftOut {
		s.leftOutBefore += s.leftOut[0].packets()
		s.leftOut = slices.Delete(s.leftOut, 0, 1)
	}
	s.leftOut = append(s.leftOut, leftOut{head: r.head, start: r.head.Load()})
}

// leave takes the subscriber off its rings and settles its account: what it
// was offered and has not been sent is skipped. For holders of Broker.mu,
// when run has returned.
func (s *subscriber) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	offered := s.shed
	for _, c := range s.all() {
		c.ring.readers.remove(s)
		c.ring.detach(c)
		offered += c.offered()
	}
	others := s.others()
	s.cursors, s.arriving, s.leftOut, s.leftOutBefore, s.shed = nil, nil, nil, 0, 0
	delete(s.tally.subscribers, s)
	s.tally.offered += offered + others
	s.tally.skipped[skipDisconnect].Add(offered - s.sent.Load() - s.skipped.Load())
	s.tally.skipped[skipLinkType].Add(others)
}

// others counts the packets of other link types; for holders of mu.
func (s *subscriber) others() uint64 {
	n := s.leftOutBefore
	for _, o := range s.leftOut {
		n += o.packets()
	}
	return n
}

// offered is how many packets the subscriber was offered, and how many of these
// were left out.
func (s *subscriber) offered() (all, others uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	others = s.others()
	all = s.shed + others
	for _, c := range s.all() {
		all += c.offered()
	}
	return all, others
}

// listen reads and drops what the analyst sends, and notices when it is gone.
// The end of its input means nothing: many tools send theirs at once.
func (s *subscriber) listen() {
	defer close(s.drained)
	err := s.out.drain()
	close(s.inputEnded)
	if err == nil {
		err = s.out.watch()
		if err == nil {
			err = errGone
		}
	}
	s.log.Debug("analyst's connection", "ended", err)
	s.command(orderGone, time.Time{})
}

var errGone = errors.New("reset by analyst")

// hangUp closes the connection in the way that was ordered. Run has returned.
func (s *subscriber) hangUp() {
	switch {
	case s.order.Load() == orderEvict:
		s.tally.evicted.Add(1)
		s.closed(s.out.cork.Abort())
	case s.err != nil || s.order.Load() == orderGone:
		s.closed(s.out.conn.Close())
	default:
		s.bow()
	}
	<-s.drained
}

// bow ends the connection in order: everything is written by now.
func (s *subscriber) bow() {
	if err := s.out.finish(time.Now().Add(time.Second)); err != nil {
		s.log.Debug("end analyst's stream", "error", err)
	}
	linger := lingerTime
	if s.order.Load() == orderFinish {
		linger = lastLingerTime
	}
	select {
	case <-s.inputEnded:
	case <-time.After(linger):
	}
	s.closed(s.out.conn.Close())
}

func (s *subscriber) closed(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Debug("close analyst's connection", "error", err)
	}
}

// reason is why run has returned, before hangUp. (When we hang up the analyst
// goes too.)
func (s *subscriber) reason() string {
	dismissed := s.visit.dismissed.Load()
	switch {
	case dismissed != nil:
		return *dismissed
	case s.err != nil:
		return s.err.Error()
	case s.order.Load() == orderEvict:
		return "evicted: too slow"
	case s.order.Load() == orderGone:
		return "gone"
	case s.order.Load() != orderNone:
		return "told to end"
	}
	return "streams ended"
}
