package broker

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/journal"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// keptEpochs is for how many epochs a stream remembers where they stand, so
// that an agent which has kept several hears the truth about each.
const keptEpochs = 16

// A stream is one capture on a sensor, under a name that stays. Its packets
// are in its ring.
type stream struct {
	name   auth.StreamName
	log    *slog.Logger
	ledger ledger

	// Guarded by Broker.mu.
	ring    *ring
	former  *ring    // what it was before, of another link type; nil: none
	history *history // nil: off
	session *session // nil: no agent sends it now
	recent  bool     // it was sent since the relay started, or in the run before

	mu                     sync.Mutex
	epochs                 []*epoch // the latest is the last one
	hello                  wire.Hello
	remote                 string
	network                string
	since                  time.Time // of the session, or of its end
	stats                  wire.Stats
	skew                   time.Duration // the sensor's clock against ours
	muted                  time.Time     // until then losses are counted, not logged
	unsaid                 uint64        // packets of losses that were not logged
	begunSaid, changedSaid time.Time     // see seldom
	fencedSaid, goneSaid   time.Time     // the same
	endedSaid              time.Time     // the same
	elsewhereSaid          time.Time     // the same
}

// An epoch is how far the relay has got in one run of a capture.
type epoch struct {
	id   wire.Epoch
	next atomic.Uint64 // the next packet number that is wanted; set by the session

	// Owned by the session. A gap of unknown count takes no number, so that
	// one which is sent again is known by its place only.
	unknownAt wire.PacketNumber
	unknown   bool
	safe      wire.PacketNumber // below this the history had everything when we looked last
	about     journal.Epoch     // for the history
	latest    int64             // newest packet time; with history only
	newest    int64             // of one that has died: the same, or else of an epoch before it
	ended     bool              // the history has its end …
	final     bool              // … and that it was the stream's as well

	over bool // its end has come; guarded by stream.mu
}

// A ledger counts what became of the packets of one stream.
type ledger struct {
	packets    atomic.Uint64 // received, duplicates not
	bytes      atomic.Uint64 // of their records
	duplicates atomic.Uint64 // packets that came once more
	lost       [causes]atomic.Uint64
	unknown    [causes]atomic.Uint64 // losses of unknown count
	sessions   atomic.Uint64
	fenced     atomic.Uint64 // sessions that a newer one took over from
}

// causes is how many causes of gaps there are, with that which we do not know.
const causes = int(wire.CauseRelayRestart) + 1

func causeIndex(c wire.Cause) int {
	if int(c) < causes {
		return int(c)
	}
	return 0
}

// resume notes a hello and returns the epoch that it opens. What the agent
// cannot send again and we do not have is lost. An agent that opens another
// epoch without having ended the one before has died in between, with we do
// not know how many packets.
func (s *stream) resume(h wire.Hello, remote, network string) (e *epoch, lost uint64, died *epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if n := len(s.epochs); n > 0 && !s.epochs[n-1].over && s.epochs[n-1].id != h.Epoch {
		died = s.epochs[n-1]
		died.over = true // said once
		for i := n - 1; i >= 0 && died.newest == 0; i-- {
			died.newest = s.epochs[i].latest
		}
	}
	s.hello, s.remote, s.network, s.since, s.stats = h, remote, network, now, wire.Stats{}
	s.skew = now.Sub(time.Unix(0, h.SentAt))
	e = s.epoch(h.Epoch)
	e.about = journal.Epoch{ID: h.Epoch, LinkType: h.LinkType, Snaplen: h.Snaplen, Interface: h.Interface, Agent: h.Agent}
	if oldest := uint64(h.Oldest); oldest > e.next.Load() {
		lost = oldest - e.next.Load()
		e.next.Store(oldest)
	}
	return e, lost, died
}

// end notes that an epoch is over.
func (s *stream) end(e *epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.over = true
	s.stats.QueuedPackets, s.stats.QueuedBytes = 0, 0 // what it counted was on its way, and is here now
}

// remember has the stream know what its history knows, and returns the link
// type that it had last; otherwise, without a history or anything in it.
func (s *stream) remember(h *history, otherwise pcap.LinkType) pcap.LinkType {
	s.history = h
	if h == nil {
		return otherwise
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, was := range h.journal.Epochs() {
		e := s.epoch(was.ID)
		e.next.Store(uint64(was.Next))
		e.safe, e.unknown, e.unknownAt = was.Next, was.UnknownAtNext, was.Next
		e.over, e.ended, e.final = was.Ended, was.Ended, was.Final
		e.about, e.latest = was.Epoch, was.Latest
		otherwise = was.LinkType
	}
	return otherwise
}

// isOver says whether the history has the stream's end for good.
func (s *stream) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.epochs)
	return n > 0 && s.epochs[n-1].final
}

// epoch finds or adds an epoch and makes it the latest; for holders of mu.
func (s *stream) epoch(id wire.Epoch) *epoch {
	e := &epoch{id: id}
	if i := slices.IndexFunc(s.epochs, func(e *epoch) bool { return e.id == id }); i >= 0 {
		e = s.epochs[i]
		s.epochs = slices.Delete(s.epochs, i, i+1)
	}
	s.epochs = append(s.epochs, e)
	if len(s.epochs) > keptEpochs {
		s.epochs = slices.Delete(s.epochs, 0, 1)
	}
	return e
}

// seldom is the level for a line about the stream that an agent can bring about
// as often as it likes: once a second it is worth an operator's look.
func (s *stream) seldom(last *time.Time, level slog.Level) slog.Level {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(*last) < time.Second {
		return slog.LevelDebug
	}
	*last = now
	return level
}

// lose counts a loss, and logs it unless another one was logged just now. A
// count of 0 is unknown.
func (s *stream) lose(count uint64, cause wire.Cause) {
	i := causeIndex(cause)
	s.ledger.lost[i].Add(count)
	if count == 0 {
		s.ledger.unknown[i].Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.muted) {
		s.unsaid += count
		return
	}
	s.muted = now.Add(10 * time.Second)
	attrs := []any{"cause", cause.String(), "packets", count}
	if count == 0 {
		attrs = []any{"cause", cause.String(), "packets", "unknown"}
	}
	if s.unsaid > 0 {
		attrs = append(attrs, "and_earlier", s.unsaid)
		s.unsaid = 0
	}
	s.log.Warn("packets lost on the way here", attrs...)
}

// note keeps the agent's own counters.
func (s *stream) note(st wire.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats = st
	s.skew = time.Since(time.Unix(0, st.SentAt))
}

// left notes that the session is over.
func (s *stream) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
}

// offlineSince is when the stream's session ended, if it has none.
func (s *stream) offlineSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}
