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
			b.complaints.warn(b.log, "cannot accept; pausing", "address", k.address, "error", err)
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

func (b *Broker) turnAway(d *door, conn net.Conn, why turnedAway, reason error) {
	d.listener.tally.away[why].Add(1)
	b.complaints.warn(d.listener.log, "refused an analyst", "remote", conn.RemoteAddr().String(), "why", why.String(), "reason", reason.Error())
	conn.Close()
}

// receive serves one analyst until the connection is closed.
func (b *Broker) receive(d *door, conn net.Conn) {
	l := d.listener
	stop := context.AfterFunc(b.hard, func() { conn.Close() })
	defer stop()
	l.tune(conn)
	b.strangers.enter(conn)
	out, err := l.secure(b.life, conn)
	b.strangers.leave(conn)
	if err != nil {
		b.turnAway(d, conn, awayHandshake, err)
		return
	}
	if !l.enter() {
		b.turnAway(d, conn, awayLimit, fmt.Errorf("%d connections are enough (max_connections)", l.plan.Load().config.MaxConnections))
		return
	}
	defer l.live.Add(-1)
	s := b.newSubscriber(l, out)
	leave, err := b.vouchAnalyst(s)
	if err != nil {
		b.turnAway(d, conn, awayHandshake, err)
		return
	}
	defer leave()
	if !b.attach(s, d) {
		conn.Close()
		return
	}
	s.log.Info("analyst connected")
	go s.listen() // hangUp waits for it
	s.handOver()
	s.run()
	b.detach(s, d)
	s.hangUp()
	s.log.Info("analyst has gone", "reason", s.reason(), "sent", s.sent.Load(), "skipped", s.skipped.Load(), "after", time.Since(s.since).Round(time.Millisecond))
}

func (b *Broker) newSubscriber(l *listener, out *outlet) *subscriber {
	remote := out.conn.RemoteAddr().String()
	t := l.plan.Load().terms
	s := &subscriber{
		terms:      t,
		outsets:    outsets{live: t.start.live()},
		out:        out,
		tally:      l.tally,
		log:        l.log.With("remote", remote),
		arrivals:   &b.arrivals,
		remote:     remote,
		since:      time.Now(),
		handed:     make(chan struct{}, 1),
		inputEnded: make(chan struct{}),
		drained:    make(chan struct{}),
	}
	s.role.Store(taken)
	return s
}

func (b *Broker) detach(s *subscriber, d *door) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(d.subscribers, s)
	d.listener.slots[s.slot] = false
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
