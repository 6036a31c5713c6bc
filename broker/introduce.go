package broker

import "time"

// This file is whom analysts meet behind the doors.

// attach shows a subscriber the streams behind its door.
func (b *Broker) attach(s *subscriber, d *door) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.closed || b.draining || !d.listener.plan.Load().admits(addrOf(s.out.conn.RemoteAddr())) {
		return false // as a reload has it since
	}
	s.slot = d.listener.takeSlot()
	d.subscribers[s] = struct{}{}
	d.listener.tally.connected.Add(1)
	lead := b.lead(d)
	if lead != nil {
		b.introduce(d, s, lead, s.outsets.of(lead))
	}
	for _, st := range b.order {
		if st != lead && d.takes(st.name) {
			b.introduce(d, s, st, s.outsets.of(st))
		}
	}
	return true
}

// lead is the stream that decides which link type a new connection gets: of
// those behind the door that are most alive the one that came first. One that
// nobody has sent for long should not keep all others out. For holders of mu.
func (b *Broker) lead(d *door) *stream {
	var lead *stream
	for _, st := range b.order {
		if d.takes(st.name) && (lead == nil || st.liveliness() > lead.liveliness()) {
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

// introduceAll shows everybody behind a door a ring that is new.
func (b *Broker) introduceAll(d *door, st *stream) {
	for s := range d.subscribers {
		b.introduce(d, s, st, outset(st.ring.begin))
		s.notify()
	}
}

func (b *Broker) introduce(d *door, s *subscriber, st *stream, from outset) {
	if s.meet(st.ring, from) || d.listener.noted[st.name] {
		return
	}
	d.listener.noted[st.name] = true
	d.listener.log.Warn("a stream is left out: its link type is not the listener's; give it a listener of its own",
		"sensor", string(st.name.Sensor), "stream", string(st.name.Capture), "link_type", st.ring.link.String(), "listener_has", s.link.String())
}
