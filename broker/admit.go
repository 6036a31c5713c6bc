package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"
)

// This file is who passes the doors.

// accept lets analysts in at one socket until that is closed.
func (b *Broker) accept(k *socket) {
	pause := 5 * time.Millisecond
	for {
		conn, err := k.ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			b.complaints.Warn(b.log, "cannot accept; pausing", "address", k.address, "error", err)
			select {
			case <-b.life.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
		default:
			pause = 5 * time.Millisecond
			b.admit(k.door.Load(), conn)
		}
	}
}

// admit turns a connection away, or starts to serve it.
func (b *Broker) admit(d *door, conn net.Conn) {
	if !d.listener.plan.Load().admits(addrOf(conn.RemoteAddr())) {
		b.turnAway(d, conn, awayDenied, errors.New("not in allow"))
		return
	}
	b.analysts.Go(func() { b.receive(d, conn) })
}

// turnAway notes why somebody does not come in, and closes the connection.
func (b *Broker) turnAway(d *door, conn net.Conn, why turnedAway, reason error) {
	var who stranger
	if errors.As(reason, &who) && !errors.As(reason, new(crowded)) {
		why = awayForbidden
	}
	d.listener.tally.away[why].Add(1)
	b.complaints.Warn(d.listener.log, "refused an analyst", "remote", conn.RemoteAddr().String(), "why", why.String(),
		"analyst", string(who.analyst), "reason", reason.Error())
	b.auditStranger(d, conn, who.analyst, why, reason)
	conn.Close()
}

// bidFarewell is turnAway for a connection that is ready to be written to: it
// ends in order, without a byte.
func (b *Broker) bidFarewell(d *door, out *outlet, v *visitor, reason error) {
	if err := out.finish(time.Now().Add(time.Second)); err != nil {
		d.listener.log.Debug("end an analyst's connection", "error", err)
	}
	why := awayDenied
	if errors.As(reason, new(crowded)) {
		why = awayLimit
	}
	if v != nil && !errors.As(reason, new(stranger)) {
		reason = stranger{v.name, reason}
	}
	b.turnAway(d, out.conn, why, reason)
}

// receive serves one analyst until the connection is closed.
func (b *Broker) receive(d *door, conn net.Conn) {
	l := d.listener
	stop := context.AfterFunc(b.hard, func() { conn.Close() })
	defer stop()
	l.tune(conn)
	out, v, err := b.secure(d, conn)
	if err != nil {
		b.turnAway(d, conn, awayHandshake, err)
		return
	}
	if !l.enter() {
		b.bidFarewell(d, out, v, crowded{fmt.Errorf("%d connections are enough (max_connections)", l.plan.Load().config.MaxConnections)})
		return
	}
	defer l.live.Add(-1)
	s := b.newSubscriber(l, out, v)
	leave, err := b.vouchAnalyst(s)
	if err != nil {
		b.bidFarewell(d, out, v, err)
		return
	}
	defer leave()
	s.outsets = b.outsetsFor(d, s.terms.start)
	if err := b.attach(s, d); err != nil {
		b.bidFarewell(d, out, v, err)
		return
	}
	s.log.Info("analyst connected")
	b.auditArrival(s, d)
	go s.listen() // hangUp waits for it
	s.handOver()
	s.run()
	reason := s.reason()
	b.detach(s, d)
	s.hangUp()
	b.auditDeparture(s, d, reason)
	s.log.Info("analyst has gone", "reason", reason, "sent", s.sent.Load(), "skipped", s.skipped.Load(), "after", time.Since(s.since).Round(time.Millisecond))
}

// secure makes a connection ready to be written to. While it shakes hands it
// takes a place among the strangers, of whom the gate admits only so many.
func (b *Broker) secure(d *door, conn net.Conn) (*outlet, *visitor, error) {
	if d.tls == nil {
		out, err := d.listener.secure(b.life, conn, nil)
		return out, nil, err
	}
	place, err := b.lobby.Enter(conn.RemoteAddr(), func() { conn.Close() })
	if err != nil {
		return nil, nil, err
	}
	out, err := d.listener.secure(b.life, conn, d.tls)
	b.lobby.Leave(place)
	if err != nil || !d.listener.plan.Load().asksForCertificate() {
		return out, nil, err
	}
	v, err := b.visitorOf(d, out.tls.ConnectionState())
	return out, v, err
}

// welcome looks once more, now that nothing changes meanwhile, whether
// somebody may come in. For holders of mu.
func (b *Broker) welcome(s *subscriber, d *door) error {
	switch p := d.listener.plan.Load(); {
	case d.closed || b.draining:
		return errors.New("the listener is closing")
	case !p.admits(addrOf(s.out.conn.RemoteAddr())):
		return errors.New("not in allow")
	case s.visit.visitor != nil:
		return b.countIn(s.visit.visitor, d)
	case p.asksForCertificate():
		return errors.New("no certificate was asked for")
	}
	return nil
}

func (b *Broker) newSubscriber(l *listener, out *outlet, v *visitor) *subscriber {
	remote := out.conn.RemoteAddr().String()
	log := l.log.With("remote", remote)
	if v != nil {
		log = log.With("analyst", string(v.name))
	}
	s := &subscriber{
		terms:      l.plan.Load().terms,
		out:        out,
		tally:      l.tally,
		log:        log,
		arrivals:   &b.arrivals,
		remote:     remote,
		since:      time.Now(),
		handed:     make(chan struct{}, 1),
		inputEnded: make(chan struct{}),
		drained:    make(chan struct{}),
	}
	s.visit.visitor = v
	s.role.Store(taken)
	return s
}

func (b *Broker) detach(s *subscriber, d *door) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(d.subscribers, s)
	d.listener.slots[s.slot] = false
	if v := s.visit.visitor; v != nil {
		b.countOut(v)
	}
	s.leave()
}

// everybody is all subscribers.
func (b *Broker) everybody() []*subscriber {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*subscriber
	for _, l := range b.listeners {
		for _, d := range l.doors {
			out = slices.AppendSeq(out, maps.Keys(d.subscribers))
		}
	}
	return out
}
