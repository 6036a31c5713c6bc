package broker

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/wire"
)

// This file is how the Broker deals with histories: which there are at the
// start, and what they are told when an agent comes.

// findHistories opens the histories of the streams that are known, and of
// others that are on disk, as far as those have room; they join the known.
// What cannot be opened now is opened when its agent comes.
func (b *Broker) findHistories(known []knownStream) ([]knownStream, map[auth.StreamName]*history, error) {
	if b.archive == nil {
		return known, nil, nil
	}
	names := make([]auth.StreamName, 0, len(known))
	for _, k := range known {
		name, err := auth.ParseStreamName(k.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("recall streams from %s: %w", stateFile, err)
		}
		names = append(names, name)
	}
	forgotten := b.forgotten(names)
	histories := b.archive.histories(append(names, forgotten...), b.config.Stream)
	for _, h := range histories {
		b.stampAfter(h)
	}
	for _, name := range forgotten {
		if h := histories[name]; h != nil && len(h.journal.Epochs()) > 0 {
			known = append(known, knownStream{Name: name.String()})
		} else if h != nil {
			b.archive.leave(h) // nothing has come yet
		}
	}
	return known, histories, nil
}

// forgotten lists streams that are on disk and not known, no more than fit
// beside those that are.
func (b *Broker) forgotten(known []auth.StreamName) (out []auth.StreamName) {
	names, err := b.archive.names()
	if err != nil {
		b.log.Error("histories cannot be listed", "error", err)
	}
	of := make(map[auth.SensorName]int)
	for _, name := range known {
		of[name.Sensor]++
	}
	for _, name := range names {
		room := len(known)+len(out) < b.config.Intake.MaxStreams && of[name.Sensor] < b.config.Intake.MaxStreamsPerSensor
		if room && !slices.Contains(known, name) {
			out = append(out, name)
			of[name.Sensor]++
		}
	}
	return out
}

// stampAfter has what comes from now on arrive after what a history holds.
func (b *Broker) stampAfter(h *history) {
	for last := uint64(max(h.journal.LastArrival(), 0)); ; {
		now := b.arrivals.Load()
		if now >= last || b.arrivals.CompareAndSwap(now, last) {
			return
		}
	}
}

// openHistory sees to it that the stream that a session has claimed has its
// history, and that this knows of what came before, as far as the disk is in
// order.
func (b *Broker) openHistory(st *stream, s *session) error {
	if b.archive == nil {
		return nil
	}
	if st.history == nil { // only the session that has the stream sets it
		h, err := b.archive.history(st.name, b.streamConfig())
		if err != nil {
			b.complaints.Warn(st.log, "refused an agent: its history cannot be used", "error", err)
			return refuse(wire.CodeLimit, "the relay cannot use the stream's history")
		}
		b.stampAfter(h)
		b.mu.Lock()
		st.remember(h, 0)
		b.mu.Unlock()
	}
	for begin := time.Now(); !st.history.settled() && st.history.trouble() == nil && s.stop.Load() == 0; time.Sleep(carePoll) {
		if time.Since(begin) > careLimit {
			break
		}
	}
	return nil
}

// noteCrash has the history say that the agent died before a time, by the clock
// of the sensor as packet times are, and how far its epoch had got. The packets
// that were lost then have no number that anybody knows.
func (h *history) noteCrash(e *epoch, before int64, arrivals *atomic.Uint64) {
	if h == nil {
		return
	}
	at := wire.PacketNumber(e.next.Load())
	h.journal.Begin(e.about, at)
	if !e.unknown || e.unknownAt != at {
		h.journal.Gap(wire.Gap{First: at, Cause: wire.CauseAgentCrash, Earliest: e.newest, Latest: max(before, e.newest)}, int64(stamp(arrivals)))
	}
	h.journal.End(false, int64(stamp(arrivals)))
	e.ended = true
}

// noteLoss has the history say that an epoch goes on without the packets that
// an agent gave into the care of a relay that has them no more.
func (h *history) noteLoss(e *epoch, lost uint64, arrivals *atomic.Uint64) {
	if h == nil {
		return
	}
	first := wire.PacketNumber(e.next.Load() - lost)
	h.journal.Begin(e.about, first)
	h.journal.Gap(wire.Gap{First: first, Count: lost, Cause: wire.CauseRelayRestart}, int64(stamp(arrivals)))
}

// closeHistories has everything on disk and lets go of it, or gives up when
// the disk takes too long.
func (b *Broker) closeHistories(by time.Time) {
	if b.archive == nil {
		return
	}
	b.mu.Lock()
	for _, st := range b.streams {
		if st.history != nil {
			b.archive.leave(st.history)
			st.history = nil
		}
	}
	b.mu.Unlock()
	waitUntil(by, b.archive.closing.Wait)
}

// outsetsFor finds out where a reader begins in the streams behind a door, as
// far as these have a history. That may read from the disk.
func (b *Broker) outsetsFor(d *door, from start) outsets {
	out := outsets{live: from.live(), at: make(map[*stream]outset)}
	if from.live() || b.archive == nil {
		return out
	}
	rings := make(map[*stream]*ring)
	b.mu.Lock()
	for _, st := range b.order {
		if st.ring.history != nil && d.takes(st.name) {
			rings[st] = st.ring
		}
	}
	b.mu.Unlock()
	at := from.arrival(time.Now())
	for st, r := range rings {
		out.at[st] = r.outset(from.oldest, at)
	}
	return out
}

// outset is where a reader begins who wants the oldest packet, or those that
// arrived at some time or later.
func (r *ring) outset(oldest bool, at uint64) outset {
	if oldest {
		return outset(min(r.history.journal.Oldest(), r.oldest()))
	}
	if ordinal, ok := r.since(at); ok {
		return outset(ordinal)
	}
	return outset(r.history.journal.SeekArrival(int64(at)))
}

// oldest is the ordinal of the oldest packet in the ring, or of the next one.
func (r *ring) oldest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.segments) > 0 {
		return r.segments[0].base
	}
	return r.head.Load()
}

// since finds the first packet in the ring that arrived at some time or later.
// It fails where an older one may be elsewhere.
func (r *ring) since(at uint64) (ordinal uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.segments) - 1; i >= 0; i-- {
		s := r.segments[i]
		if len(s.marks) == 0 || s.marks[0].arrival >= at {
			continue
		}
		n, _ := slices.BinarySearchFunc(s.marks, at, func(m mark, a uint64) int { return compare(m.arrival, a) })
		return s.base + uint64(s.marks[n-1].packets), true
	}
	return 0, false
}

func (b *Broker) streamConfig() StreamConfig {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.config.Stream
}
