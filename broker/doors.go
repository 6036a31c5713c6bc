package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"poip/auth"
)

// This file is which listeners there are, and which of their doors are open.

// arrange makes the listeners be what the plans say, or changes nothing. For
// holders of mu. It returns the plans of those listeners that go on.
func (b *Broker) arrange(plans []plan) (former map[*listener]*plan, err error) {
	assigned := clonePorts(b.ports)
	next, err := b.listenersFor(plans)
	if err != nil {
		b.ports = assigned
		return nil, err
	}
	sockets, fresh, err := b.socketsFor(next)
	if err != nil {
		b.ports = assigned
		return nil, err
	}
	b.retireListeners(next)
	former = make(map[*listener]*plan)
	for i, l := range next {
		former[l] = l.plan.Swap(&plans[i])
	}
	b.listeners = next
	b.useSockets(sockets, fresh)
	b.rehang()
	return former, nil
}

// rehang gives the listeners that have a door for each stream those of the
// streams that they offer now.
func (b *Broker) rehang() {
	for _, l := range b.listeners {
		p := l.plan.Load()
		b.closeDoors(l, func(name auth.StreamName) bool { return !p.matches(name) })
	}
	for _, st := range b.order {
		b.openDoors(st)
	}
}

// useSockets gives each door its socket, and closes those that none wants.
func (b *Broker) useSockets(sockets map[string]*socket, fresh []*socket) {
	for key, k := range b.sockets {
		if sockets[key] == nil {
			k.ln.Close()
		}
	}
	b.sockets = sockets
	for _, l := range b.listeners {
		for _, d := range l.doors {
			if k := sockets[d.key()]; k != nil {
				d.socket = k
				k.door.Store(d)
			}
		}
	}
	if b.running {
		for _, k := range fresh {
			b.analysts.Go(func() { b.accept(k) })
		}
	}
}

func clonePorts(ports map[string]map[string]uint16) map[string]map[string]uint16 {
	out := make(map[string]map[string]uint16, len(ports))
	for l, p := range ports {
		out[l] = maps.Clone(p)
	}
	return out
}

// listenersFor keeps the listeners that can go on as planned and makes the
// others, with doors.
func (b *Broker) listenersFor(plans []plan) ([]*listener, error) {
	var out []*listener
	for _, p := range plans {
		i := slices.IndexFunc(b.listeners, func(l *listener) bool { return l.name() == p.config.Name && l.plan.Load().serves(p) })
		if i >= 0 {
			out = append(out, b.listeners[i])
			continue
		}
		l, err := b.makeListener(p)
		if err != nil {
			return nil, fmt.Errorf("listener %q: %w", p.config.Name, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func (b *Broker) makeListener(p plan) (*listener, error) {
	var config *tls.Config
	if p.config.TLS {
		if b.opts.AnalystTLS == nil {
			return nil, errors.New("tls = true, and there is no certificate to use")
		}
		c, err := b.opts.AnalystTLS(p.config.ClientAuth)
		if err != nil {
			return nil, err
		}
		config = c.Clone()
		config.DynamicRecordSizingDisabled = true // small records help web pages, not streams
	}
	t := b.tallies[p.config.Name]
	if t == nil {
		t = newTally()
		b.tallies[p.config.Name] = t
	}
	l := newListener(p, config, t, b.log)
	if p.asksForCertificate() {
		l.tlsOf = b.tlsOf
	}
	if !p.config.Each {
		l.newDoor(auth.StreamName{}, p.low)
		return l, nil
	}
	for _, st := range b.order {
		if p.matches(st.name) {
			b.newDoorFor(l, st.name)
		}
	}
	return l, nil
}

// newDoorFor gives a stream a door with the port that it had, or another one; nil
// if none is left.
func (b *Broker) newDoorFor(l *listener, name auth.StreamName) *door {
	p := l.plan.Load()
	ports := b.ports[l.name()]
	if ports == nil {
		ports = make(map[string]uint16)
		b.ports[l.name()] = ports
	}
	port, ok := ports[name.String()]
	if !ok || port < p.low || port > p.high {
		if port, ok = p.freePort(ports); !ok {
			l.unserve(name)
			return nil
		}
		delete(l.unserved, name)
		ports[name.String()] = port
	}
	return l.newDoor(name, port)
}

// freePort finds the lowest port that no stream has; where all are taken, that of
// a stream which does not match any more, and is forgotten for it.
func (p *plan) freePort(ports map[string]uint16) (port uint16, ok bool) {
	owners := make(map[uint16]string, len(ports))
	for name, port := range ports {
		owners[port] = name
	}
	idle := ""
	for port := int(p.low); port <= int(p.high); port++ {
		owner, taken := owners[uint16(port)]
		if !taken {
			return uint16(port), true
		}
		if name, err := auth.ParseStreamName(owner); idle == "" && (err != nil || !p.matches(name)) {
			idle = owner
		}
	}
	port, ok = ports[idle]
	delete(ports, idle)
	return port, ok
}

// unserve notes that a stream has no door.
func (l *listener) unserve(name auth.StreamName) {
	if l.unserved[name] {
		return
	}
	l.unserved[name] = true
	l.log.Warn("no port is left in the range for a stream; widen it", "range", l.plan.Load().config.Listen, "sensor", string(name.Sensor), "stream", string(name.Capture))
}

// socketsFor finds or binds the sockets of all doors. One of a stream that
// cannot be bound now is tried again later: its port may be in use for an
// outgoing connection, by chance.
func (b *Broker) socketsFor(listeners []*listener) (all map[string]*socket, fresh []*socket, err error) {
	all = make(map[string]*socket)
	for _, l := range listeners {
		for _, d := range l.doors {
			if k := b.sockets[d.key()]; k != nil {
				all[d.key()] = k
				continue
			}
			k, err := b.bind(d)
			if err == nil {
				all[d.key()] = k
				fresh = append(fresh, k)
				continue
			}
			if !l.plan.Load().config.Each {
				for _, k := range fresh {
					k.ln.Close()
				}
				return nil, nil, fmt.Errorf("listener %q: %w", l.name(), err)
			}
			l.log.Warn("cannot listen for a stream; trying again", "stream", d.stream.String(), "error", err)
		}
	}
	return all, fresh, nil
}

func (b *Broker) bind(d *door) (*socket, error) {
	ln, err := b.opts.Listen("tcp", d.address())
	d.bindError = err
	if err != nil {
		return nil, err
	}
	k := &socket{address: d.address(), ln: ln}
	k.door.Store(d)
	return k, nil
}

// retireListeners closes the doors of listeners that are not among the next.
func (b *Broker) retireListeners(next []*listener) {
	for _, l := range b.listeners {
		if slices.Contains(next, l) {
			continue
		}
		for _, d := range l.doors {
			d.close("the listener is no more, or another one now")
		}
	}
}

// close sends everybody behind the door home; for holders of Broker.mu.
func (d *door) close(reason string) {
	d.closed = true
	for s := range d.subscribers {
		s.dismiss(reason)
	}
}

// openDoors opens a door for a stream at every listener that has one for
// each, and has not opened it yet; for holders of mu. It says whether it did.
func (b *Broker) openDoors(st *stream) (some bool) {
	for _, l := range b.listeners {
		p := l.plan.Load()
		has := slices.ContainsFunc(l.doors, func(d *door) bool { return d.stream == st.name })
		if !p.config.Each || has || !p.matches(st.name) {
			continue
		}
		if d := b.newDoorFor(l, st.name); d != nil {
			b.openDoor(d)
			some = true
		}
	}
	return some
}

// openDoor binds the socket of a door that is to have one; for holders of mu.
func (b *Broker) openDoor(d *door) {
	before := d.bindError
	k, err := b.bind(d)
	if err != nil {
		if before == nil {
			d.listener.log.Warn("cannot listen for a stream; trying again", "stream", d.stream.String(), "error", err)
		}
		return
	}
	d.socket = k
	b.sockets[d.key()] = k
	if b.running && !b.draining {
		b.analysts.Go(func() { b.accept(k) })
	}
	d.listener.log.Info("a stream has a port of its own", "sensor", string(d.stream.Sensor), "stream", string(d.stream.Capture), "address", k.ln.Addr().String())
}

// closeDoors removes the doors that a listener has for these streams alone;
// for holders of mu.
func (b *Broker) closeDoors(l *listener, of func(auth.StreamName) bool) {
	if !l.plan.Load().config.Each {
		return
	}
	maps.DeleteFunc(l.unserved, func(name auth.StreamName, _ bool) bool { return of(name) })
	for _, d := range l.doors {
		if !of(d.stream) {
			continue
		}
		d.close("the stream has no port here any more")
		if d.socket != nil {
			delete(b.sockets, d.key())
			d.socket.ln.Close()
		}
	}
	l.doors = slices.DeleteFunc(l.doors, func(d *door) bool { return of(d.stream) })
}

// freePorts closes the doors of a stream that is forgotten, and has others use
// their ports; for holders of mu.
func (b *Broker) freePorts(name auth.StreamName) {
	for _, l := range b.listeners {
		b.closeDoors(l, func(n auth.StreamName) bool { return n == name })
	}
	for _, ports := range b.ports {
		delete(ports, name.String())
	}
}

// keepHouse opens, every now and then, the doors that could not be opened.
func (b *Broker) keepHouse() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.life.Done():
			return
		case <-tick.C:
			if !b.openStuckDoors() {
				continue
			}
			if err := b.save(); err != nil {
				b.log.Error("streams and their ports may be forgotten at a restart", "error", err)
			}
		}
	}
}

// openStuckDoors says whether a stream has a port now that had none.
func (b *Broker) openStuckDoors() (some bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return false
	}
	for _, l := range b.listeners {
		for _, d := range l.doors {
			if d.socket == nil {
				b.openDoor(d)
			}
		}
	}
	for _, st := range b.order {
		if slices.ContainsFunc(b.listeners, func(l *listener) bool { return l.unserved[st.name] }) && b.openDoors(st) {
			some = true
		}
	}
	return some
}
