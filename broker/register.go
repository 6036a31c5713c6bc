package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"poip/auth"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// This file is who may send what: sessions, and the streams that they fill.

// converse holds one conversation with an agent. It is handed to transport.
func (b *Broker) converse(ctx context.Context, conn transport.Conn) {
	if conn.TLS().NegotiatedProtocol == transport.ALPNJoin {
		b.enroll(ctx, conn)
		return
	}
	remote := conn.RemoteAddr().String()
	log := b.log.With("remote", remote, "network", conn.Network())
	s := &session{
		conn:  conn,
		log:   log,
		begin: b.begin,
		ended: b.ended,
		done:  make(chan struct{}),
	}
	err := b.admitSession(s)
	if err == nil {
		err = b.vouch(s)
	}
	if err != nil {
		s.complain(s.log, "refused an agent", "reason", err.Error())
		b.auditAgent(s.sensor, conn.RemoteAddr(), conn.Network(), codeOf(err), err)
		s.farewell(err)
		return
	}
	stop := context.AfterFunc(ctx, func() { s.interrupt(wire.CodeDraining) })
	defer stop()
	err = s.run()
	b.guard.leave(s.guest)
	b.hangUp(s)
	b.release(s, err)
	if err := conn.Close(); err != nil {
		log.Debug("close agent's connection", "error", err)
	}
}

// admitSession identifies the agent by its certificate, and counts it.
func (b *Broker) admitSession(s *session) error {
	sensor, err := b.sensorIn(s.conn.TLS())
	if err != nil {
		return err
	}
	s.sensor, s.log = sensor, s.log.With("sensor", string(sensor))
	b.mu.Lock()
	defer b.mu.Unlock()
	s.rate = b.rateOf(sensor)
	if b.draining {
		return refuse(wire.CodeDraining, "%s", reasons[wire.CodeDraining])
	}
	s.window, s.block = int(b.config.Intake.Window), b.blocking
	s.guard = b.guard
	// Twice, for a sensor that comes back before its old connections are given up.
	if most := 2*b.config.Intake.MaxStreamsPerSensor + 8; !b.talking.enter(sensor, most) {
		return refuse(wire.CodeLimit, "sensor %s has %d connections already (max_streams_per_sensor)", sensor, most)
	}
	b.sessions.Add(1)
	return nil
}

// hangUp undoes admitSession.
func (b *Broker) hangUp(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.talking.leave(s.sensor)
	b.sessions.Done()
}

// begin opens an epoch of a stream for a session. When it returns, no other
// session of the stream takes anything any more.
func (b *Broker) begin(s *session, h wire.Hello) (*stream, *ring, *epoch, error) {
	name, err := auth.ParseStreamName(h.Stream)
	if err != nil {
		return nil, nil, nil, refuse(wire.CodeProtocol, "%s", err)
	}
	if err := b.opts.MayPublish(s.sensor, name); err != nil {
		s.complain(s.log, "refused a stream to an agent", "stream", name.String(), "reason", err.Error())
		return nil, nil, nil, refuse(wire.CodeForbidden, "%s", err)
	}
	st, older, err := b.claim(s, name)
	if err != nil {
		s.complain(s.log, "refused a stream to an agent", "stream", name.String(), "reason", err.Error())
		return nil, nil, nil, err
	}
	if older != nil {
		b.fence(st, older, s)
	}
	if s.stop.Load() != 0 {
		return nil, nil, nil, errStopped
	}
	if err := b.openHistory(st, s); err != nil {
		return nil, nil, nil, err
	}
	if err := s.awaitDisk(st.history); err != nil { // else ever new epochs would wait for the disk, packets or not
		return nil, nil, nil, err
	}
	r, changed := b.ringFor(st, h.LinkType)
	e, lost, died := st.resume(h, s.conn.RemoteAddr().String(), s.conn.Network())
	st.log.Log(context.Background(), st.seldom(&st.begunSaid, slog.LevelInfo), "stream begins",
		"remote", s.conn.RemoteAddr().String(), "network", s.conn.Network(), "link_type", h.LinkType.String(),
		"interface", shortened(h.Interface), "agent", shortened(h.Agent), "epoch", h.Epoch.String(), "position", e.next.Load())
	if died != nil {
		st.lose(0, wire.CauseAgentCrash)
		r.history.noteCrash(died, h.SentAt, &b.arrivals)
	}
	if lost > 0 {
		st.lose(lost, wire.CauseRelayRestart)
		r.history.noteLoss(e, lost, &b.arrivals)
	}
	if changed {
		if err := b.save(); err != nil {
			b.log.Error("streams and their ports may be forgotten at a restart", "error", err)
		}
	}
	return st, r, e, nil
}

// shortened is how much of an agent's words goes into a line of the log.
func shortened(s string) string { return s[:min(len(s), 128)] }

// fence ends the older session of a stream. It returns when that takes
// nothing any more.
func (b *Broker) fence(st *stream, older, newer *session) {
	select {
	case <-older.done:
		return // it has ended by itself
	default:
	}
	older.interrupt(wire.CodeFenced)
	<-older.done
	st.ledger.fenced.Add(1)
	b.guard.takenOver(st, older, newer)
	st.log.Log(context.Background(), st.seldom(&st.fencedSaid, slog.LevelWarn), "a newer session takes the stream over", "remote", newer.conn.RemoteAddr().String(), "from", older.conn.RemoteAddr().String())
}

// claim makes the session the stream's own, and returns the one that was so
// far. A stream that is new needs room.
func (b *Broker) claim(s *session, name auth.StreamName) (st *stream, older *session, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return nil, nil, refuse(wire.CodeDraining, "%s", reasons[wire.CodeDraining])
	}
	st = b.streams[name]
	if st == nil {
		if err := b.makeRoom(name); err != nil {
			return nil, nil, err
		}
		st = b.newStream(name)
	}
	older = st.session
	switch {
	case older == s:
		older = nil
	case s.stream != nil: // two that fenced each other would wait for ever
		return nil, nil, refuse(wire.CodeFenced, "%s", reasons[wire.CodeFenced])
	}
	st.session = s
	if s.stream == nil {
		st.ledger.sessions.Add(1)
	}
	return st, older, nil
}

func (b *Broker) newStream(name auth.StreamName) *stream {
	st := &stream{name: name, log: b.log.With("sensor", string(name.Sensor), "stream", string(name.Capture)), since: time.Now()}
	b.streams[name] = st
	return st
}

// makeRoom sees that one more stream may be added; for holders of mu.
func (b *Broker) makeRoom(name auth.StreamName) error {
	all := func(*stream) bool { return true }
	own := func(st *stream) bool { return st.name.Sensor == name.Sensor }
	most := b.config.Intake.MaxStreamsPerSensor
	if b.archive != nil && !b.archive.hasRoom(name, 2*most) { // else a sensor with ever new names would fill the disk
		return refuse(wire.CodeLimit, "%d histories of sensor %s are on the relay's disk, most of them of streams that are forgotten: remove what is old below its data/history, while the relay does not run", 2*most, name.Sensor)
	}
	if !b.hasRoom(own, most) {
		return refuse(wire.CodeLimit, "%d streams of sensor %s are enough (max_streams_per_sensor)", most, name.Sensor)
	}
	if most := b.config.Intake.MaxStreams; !b.hasRoom(all, most) {
		return refuse(wire.CodeLimit, "%d streams are enough (max_streams)", most)
	}
	return nil
}

// hasRoom says whether fewer than most streams of a kind are known. If need
// be it forgets the one that has been offline longest.
func (b *Broker) hasRoom(kind func(*stream) bool, most int) bool {
	n := 0
	var longest *stream
	for _, st := range b.streams {
		if !kind(st) {
			continue
		}
		n++
		if st.session == nil && (longest == nil || st.offlineSince().Before(longest.offlineSince())) {
			longest = st
		}
	}
	if n < most {
		return true
	}
	if longest == nil || time.Since(longest.offlineSince()) < b.forgetting {
		return false
	}
	b.forget(longest)
	return true
}

// forget removes a stream, and its ports; for holders of mu.
func (b *Broker) forget(st *stream) {
	st.log.Warn("forgetting a stream that is offline, to make room; what is on disk of it stays there")
	delete(b.streams, st.name)
	b.order = slices.DeleteFunc(b.order, func(o *stream) bool { return o == st })
	if st.ring != nil {
		st.ring.retire()
		st.ring.empty()
	}
	if st.former != nil {
		st.former.empty()
	}
	if st.history != nil {
		b.archive.leave(st.history)
	}
	b.freePorts(st.name)
}

// ringFor returns the ring for a stream's packets, and whether what has to be
// known after a restart has changed. The ring is new when the stream is, has
// another link type than before, or a history that could not be opened before;
// everybody who waits for it is introduced.
func (b *Broker) ringFor(st *stream, link pcap.LinkType) (r *ring, changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh := st.ring == nil || st.ring.link != link || st.ring.history != st.history
	if fresh {
		b.setRing(st, link)
	}
	changed = fresh || !st.recent
	st.recent = true
	st.ring.begun.Store(true)
	st.ring.over.Store(false)
	return st.ring, changed
}

// setRing gives a stream a new ring; for holders of mu.
func (b *Broker) setRing(st *stream, link pcap.LinkType) {
	if old := st.ring; old != nil {
		if old.link != link {
			st.log.Log(context.Background(), st.seldom(&st.changedSaid, slog.LevelWarn),
				"stream has another link type now; its listeners may leave it out", "was", old.link.String(), "is", link.String())
		}
		old.retire()
		if st.former != nil {
			st.former.empty() // one at most beside the ring in use
		}
		st.former = old
	}
	st.ring = newTail(link, int(b.config.Stream.Memory), &b.arrivals, st.history)
	b.order = append(slices.DeleteFunc(b.order, func(o *stream) bool { return o == st }), st)
	b.openDoors(st)
	for _, l := range b.listeners {
		for _, d := range l.doors {
			if d.takes(st.name) {
				b.introduceAll(d, st)
			}
		}
	}
}

// ended notes the end of an epoch.
func (b *Broker) ended(s *session, e wire.End) {
	s.stream.end(s.epoch)
	if !e.Final {
		return
	}
	s.stream.log.Log(context.Background(), s.stream.seldom(&s.stream.endedSaid, slog.LevelInfo), "stream has ended", "packets", s.stream.ledger.packets.Load())
	s.ring.over.Store(true)
	s.ring.readers.all()
}

// release takes the session off its stream.
func (b *Broker) release(s *session, err error) {
	log, level := s.log, slog.LevelDebug // of one that has said nothing
	if s.stream != nil {
		log = log.With("stream", string(s.stream.name.Capture))
		level = s.stream.seldom(&s.stream.goneSaid, slog.LevelInfo)
	}
	b.mu.Lock()
	for _, st := range b.streams {
		if st.session == s {
			st.session = nil
			st.left()
		}
	}
	b.mu.Unlock()
	var refusal wire.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Code != wire.CodeDraining:
		s.complain(log, "refused an agent", "code", refusal.Code.String(), "reason", refusal.Reason)
		b.auditAgent(s.sensor, s.conn.RemoteAddr(), s.conn.Network(), refusal.Code, err)
	case errors.Is(err, wire.ErrMalformed):
		s.complain(log, "refused an agent", "code", wire.CodeProtocol.String(), "reason", err.Error())
		b.auditAgent(s.sensor, s.conn.RemoteAddr(), s.conn.Network(), wire.CodeProtocol, err)
	case s.state == streaming:
		log.Log(context.Background(), level, "agent has gone; its stream waits for it", "reason", err.Error())
	default:
		log.Log(context.Background(), level, "agent has gone", "reason", err.Error())
	}
}

// recall makes the streams that are known from before.
func (b *Broker) recall() error {
	m, err := b.store.load()
	var bad damaged
	if errors.As(err, &bad) {
		b.log.Error("what was known of streams and their ports is lost", "file", stateFile, "error", bad.error)
	} else if err != nil {
		return err
	}
	b.ports = m.Ports
	if b.ports == nil {
		b.ports = make(map[string]map[string]uint16)
	}
	known, histories, err := b.findHistories(m.Streams)
	if err != nil {
		return err
	}
	for _, k := range known {
		name, err := auth.ParseStreamName(k.Name)
		if err != nil {
			return fmt.Errorf("recall streams from %s: %w", stateFile, err)
		}
		st := b.newStream(name)
		st.recent = k.Recent
		b.setRing(st, st.remember(histories[name], k.LinkType))
		st.ring.over.Store(st.isOver())
	}
	return nil
}

// save writes what has to be known after a restart.
func (b *Broker) save() error {
	return b.store.save(func() memory {
		b.mu.Lock()
		defer b.mu.Unlock()
		m := memory{Ports: clonePorts(b.ports)}
		for _, st := range b.order {
			m.Streams = append(m.Streams, knownStream{Name: st.name.String(), LinkType: st.ring.link, Recent: st.recent})
		}
		return m
	})
}
