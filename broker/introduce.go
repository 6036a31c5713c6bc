package broker

import (
	"time"

	"poip/auth"
)

// This file is whom analysts meet behind the doors.

// attach shows a subscriber the streams behind its door that it may read.
func (b *Broker) attach(s *subscriber, d *door) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.welcome(s, d); err != nil {
		return err
	}
	s.slot = d.listener.takeSlot()
	d.subscribers[s] = struct{}{}
	s.tally.subscribers[s] = struct{}{}
	s.tally.connected.Add(1)
	lead := b.lead(d, s)
	if lead != nil {
		b.introduce(d, s, lead, s.outsets.of(lead))
	}
	for _, st := range b.order {
		if st != lead && d.offers(s, st.name) {
			b.introduce(d, s, st, s.outsets.of(st))
		}
	}
	return nil
}

// showMore shows a subscriber what a reload has given it beyond what it had;
// for holders of mu.
func (b *Broker) showMore(d *door, s *subscriber, had map[auth.StreamName]bool) {
	for _, st := range b.order {
		if d.offers(s, st.name) && !had[st.name] {
			b.introduce(d, s, st, s.outsets.of(st))
			s.notify()
		}
	}
}

// lead is the stream that decides which link type a new connection gets: of
// those behind the door that it may read and that are most alive the one that
// came first. One that nobody has sent for long should not keep all others out.
// Where s is nil it is for whoever may read all. For holders of mu.
func (b *Broker) lead(d *door, s *subscriber) *stream {
	var lead *stream
	for _, st := range b.order {
		if d.offers(s, st.name) && (lead == nil || st.liveliness() > lead.liveliness()) {
			lead = st
		}
	}
	return lead
}

// liveliness is higher the likelier a stream is to go on. For holders of
// Broker.mu.
func (s *stream) liveliness() int {
	begun := s.ring.begun.Load()
	switch {
	case s.session != nil, begun && time.Since(s.offlineSince()) < time.Minute:
		return 3
	case begun:
		return 2
	case s.recent:
		return 1
	}
	return 0
}

// introduceAll shows everybody behind a door a ring that is new. Who has too many
// old ones to read yet goes.
func (b *Broker) introduceAll(d *door, st *stream) {
	for s := range d.subscribers {
		switch {
		case !d.offers(s, st.name) || s.visit.dismissed.Load() != nil:
		case s.outdated() > maxOutdated:
			s.dismiss("reads too slowly for streams that change their link type this often")
		default:
			b.introduce(d, s, st, outset(st.ring.begin))
			s.notify()
		}
	}
}

func (b *Broker) introduce(d *door, s *subscriber, st *stream, from outset) {
	s.visit.note(st.name)
	if s.meet(st.ring, from) || d.listener.noted[st.name] {
		return
	}
	d.listener.noted[st.name] = true
	d.listener.log.Warn("a stream is left out: its link type is not the listener's; give it a listener of its own",
		"sensor", string(st.name.Sensor), "stream", string(st.name.Capture), "link_type", st.ring.link.String(), "listener_has", s.link.String())
}
