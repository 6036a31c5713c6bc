package broker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/transport"
	"poip/internal/wire"
)

const (
	// ackDelay is how long an acknowledgment may wait for more to
	// acknowledge; each costs a write of its own.
	ackDelay = 20 * time.Millisecond

	// holdPoll is how often a session looks whether blocking readers have
	// let the ring shrink.
	holdPoll = 10 * time.Millisecond

	// How long a segment may wait: for readers whom we have not come round to,
	// and for most of those who are well, where the source has no pace of its
	// own. So a stream is never slowed below 128 MiB/s by anybody else.
	starveLimit = 100 * time.Millisecond
	paceLimit   = 2 * time.Millisecond

	// farewell bounds how long a refusal may take to write.
	farewell = time.Second
)

// A session is one conversation with an agent: it fills the ring of one
// stream. All of it happens on one goroutine, and what it writes inline to
// analysts as well; only interrupt is for others.
type session struct {
	// Set once before it runs.
	conn   transport.Conn
	sensor auth.SensorName
	log    *slog.Logger
	window int
	rate   *rate         // of its sensor, all streams together
	block  time.Duration // for which a blocking reader may take nothing
	begin  func(*session, wire.Hello) (*stream, *ring, *epoch, error)
	ended  func(*session, wire.End) // an epoch has

	vouched // of its certificate; trust.go

	stop atomic.Uint32 // the wire.Code to end with; 0: go on
	done chan struct{} // closed when it takes nothing more

	state    state
	deadline time.Time // for the first hello
	stream   *stream
	ring     *ring
	epoch    *epoch
	position wire.PacketNumber

	unread  int       // bytes committed since the readers were told
	unacked int       // bytes of frames since the last ack
	owed    time.Time // since when there is something to acknowledge; zero: nothing
	acked   wire.PacketNumber
	entered bool              // the history knows that this epoch goes on
	seen    wire.PacketNumber // what the agent has sent in this conversation; no ack may exceed it
	spoke   time.Time         // when we wrote last
	heard   time.Time         // when something arrived last, as far as we looked
	arrived uint64            // bytes, when we looked
	held    time.Time         // since when blocking readers hold the stream; zero: they do not

	head    [wire.FrameHeaderLen]byte
	control [wire.MaxControlLen]byte
	out     []byte
}

// state is where a conversation stands; PROTOCOL.md, section 4.
type state int

const (
	greeting state = iota // no hello yet
	streaming
	closing // an end has come, and what is before it is not in our care yet
	resting // an epoch has ended, and no other has begun
)

var (
	errStopped = errors.New("stopped")
	errIdle    = fmt.Errorf("nothing heard for %s", wire.Idle)
	errNoHello = fmt.Errorf("no hello within %s", wire.HelloTimeout)
)

func refuse(code wire.Code, format string, args ...any) error {
	return wire.Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// run holds the conversation until it ends, tells the agent why where it is
// we who end it, and returns the reason.
func (s *session) run() error {
	now := time.Now()
	s.heard, s.spoke, s.deadline = now, now, now.Add(wire.HelloTimeout)
	s.conn.BeforeWait(s.beforeWait)
	err := s.converse()
	if s.ring != nil {
		s.ring.readers.publish(segmentLen)
	}
	if code := wire.Code(s.stop.Load()); code != 0 && !errors.As(err, new(wire.Refusal)) {
		err = refuse(code, "%s", reasons[code])
	}
	s.farewell(err)
	close(s.done)
	return err
}

// reasons are for people at the other end.
var reasons = map[wire.Code]string{
	wire.CodeFenced:   "a newer session of the same stream took over",
	wire.CodeDraining: "the relay is shutting down",
	wire.CodeRevoked:  "the certificate, or the authority it is from, is not accepted any more",
	wire.CodeExpired:  "the certificate has expired",
}

// farewell acknowledges what was received and tells the agent why it ends.
func (s *session) farewell(err error) {
	var refusal wire.Refusal
	switch {
	case errors.As(err, &refusal):
	case errors.Is(err, wire.ErrMalformed):
		refusal = wire.Refusal{Code: wire.CodeProtocol, Reason: err.Error()}
	default:
		return
	}
	s.out = s.out[:0]
	if s.state != greeting && s.held.IsZero() {
		s.settle()
		s.out = wire.AppendAck(s.out, wire.Ack{Next: s.acked})
	}
	s.out = wire.AppendRefusal(s.out, refusal)
	_ = s.conn.SetWriteDeadline(time.Now().Add(farewell)) // an error shows in the write
	if err := s.send(); err != nil {
		s.log.Debug("tell agent of its refusal", "error", err)
	}
}

// interrupt makes the session end with a refusal. Done is closed soon after.
func (s *session) interrupt(code wire.Code) {
	s.stop.CompareAndSwap(0, uint32(code))
	now := time.Now()
	for _, err := range []error{s.conn.SetReadDeadline(now), s.conn.SetWriteDeadline(now.Add(farewell))} {
		if err != nil {
			s.log.Debug("interrupt session", "error", err) // closed already
		}
	}
}

func (s *session) converse() error {
	for {
		h, err := wire.ReadHeader(s, &s.head)
		if err != nil {
			return err
		}
		if h.Type == wire.TypeBatch {
			if err = s.batch(h.Length); err == nil {
				err = s.pay(h.Length)
			}
		} else {
			err = s.take(h)
		}
		if err != nil {
			return err
		}
	}
}

// take reads and obeys a frame that is not a batch.
func (s *session) take(h wire.Header) error {
	payload := s.control[:h.Length]
	if _, err := io.ReadFull(s, payload); err != nil {
		return err
	}
	switch {
	case h.Type == wire.TypeHello && (s.state == greeting || s.state == resting):
		return s.greet(payload)
	case h.Type == wire.TypeGap && s.state == streaming:
		return s.gap(payload)
	case h.Type == wire.TypeStats && s.state != greeting:
		return s.statistics(payload)
	case h.Type == wire.TypeEnd && s.state == streaming:
		return s.end(payload)
	case h.Type == wire.TypeRenew && s.state != greeting:
		return s.renew(payload)
	}
	return s.outOfPlace(h.Type)
}

func (s *session) outOfPlace(t wire.Type) error {
	where := [...]string{"before a hello", "within an epoch", "before its end is acknowledged", "between epochs"}[s.state]
	return refuse(wire.CodeProtocol, "frame of type %d %s", t, where)
}

// greet opens an epoch.
func (s *session) greet(payload []byte) error {
	hello, err := wire.ParseHello(payload)
	if err != nil {
		return err
	}
	hello.Interface, hello.Agent = legible(hello.Interface), legible(hello.Agent)
	if s.stream != nil && hello.Stream != s.stream.name.String() {
		return refuse(wire.CodeProtocol, "another stream than %s in its conversation", s.stream.name)
	}
	stream, ring, epoch, err := s.begin(s, hello)
	if err != nil {
		return err
	}
	s.stream, s.ring, s.epoch = stream, ring, epoch
	if s.stop.Load() != 0 {
		return errStopped
	}
	s.position = wire.PacketNumber(s.epoch.next.Load())
	s.acked = s.careFrom(hello.Oldest)
	s.seen, s.unacked, s.owed, s.held = s.acked, 0, time.Time{}, time.Time{}
	s.entered = false
	s.state = streaming
	s.out = wire.AppendHelloAck(s.out[:0], wire.HelloAck{
		Version:  wire.Version,
		Position: s.acked,
		Window:   uint32(s.window),
		MaxBatch: wire.MaxBatchLen,
		Idle:     uint32(wire.Idle.Milliseconds()),
	})
	s.out = s.announce(s.out)
	return s.write()
}

// place says what a run of packet numbers is to the position.
type place int

const (
	wanted place = iota
	duplicate
	hole
	straddling
)

func (s *session) judge(first, next wire.PacketNumber) place {
	switch {
	case first == s.position:
		return wanted
	case next <= s.position:
		return duplicate
	case first > s.position:
		return hole
	}
	return straddling
}

func (s *session) misplaced(p place, what string, first, next wire.PacketNumber) error {
	if p == hole {
		return refuse(wire.CodeHole, "%s begins at %d, position is %d", what, first, s.position)
	}
	return refuse(wire.CodeProtocol, "%s of %d to %d straddles position %d", what, first, next, s.position)
}

// batch reads records straight to where analysts read them.
func (s *session) batch(length int) error {
	if s.state != streaming {
		return s.outOfPlace(wire.TypeBatch)
	}
	header := s.control[:wire.BatchHeaderLen]
	if _, err := io.ReadFull(s, header); err != nil {
		return err
	}
	h := wire.ParseBatchHeader(header)
	if h.Count == 0 || h.Next() < h.First {
		return refuse(wire.CodeProtocol, "batch of %d packets at %d", h.Count, h.First)
	}
	length -= wire.BatchHeaderLen
	switch p := s.judge(h.First, h.Next()); p {
	case wanted:
		return s.append(header, h, length)
	case duplicate:
		s.stream.ledger.duplicates.Add(uint64(h.Count))
		s.see(h.Next())
		s.owe(wire.BatchPrefixLen + length)
		return s.discard(length)
	default:
		return s.misplaced(p, "batch", h.First, h.Next())
	}
}

func (s *session) append(header []byte, h wire.BatchHeader, length int) error {
	if s.ring.full(length) {
		if err := s.makeWay(); err != nil {
			return err
		}
	}
	if err := s.awaitDisk(s.ring.history); err != nil {
		return err
	}
	records := s.ring.reserve(length)
	if _, err := io.ReadFull(s, records); err != nil {
		return err
	}
	if err := wire.VerifyBatch(header, records); err != nil {
		return refuse(wire.CodeCorrupt, "%s", err)
	}
	arrival := s.store(header, records)
	s.ring.commitAs(length, int(h.Count), arrival)
	s.stream.ledger.packets.Add(uint64(h.Count))
	s.stream.ledger.bytes.Add(uint64(length))
	s.moveTo(h.Next())
	s.owe(wire.BatchPrefixLen + length)
	if s.unread += length; s.unread >= segmentLen {
		s.publish()
	}
	if s.unacked >= s.window/8 {
		return s.ack()
	}
	return nil
}

func (s *session) moveTo(next wire.PacketNumber) {
	s.position = next
	s.epoch.next.Store(uint64(next))
	s.see(next)
}

func (s *session) see(next wire.PacketNumber) { s.seen = max(s.seen, next) }

// discard reads n bytes and drops them.
func (s *session) discard(n int) error {
	for n > 0 {
		part := s.control[:min(n, len(s.control))]
		if _, err := io.ReadFull(s, part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

func (s *session) gap(payload []byte) error {
	g, err := wire.ParseGap(payload)
	if err != nil {
		return err
	}
	if err := s.awaitDisk(s.ring.history); err != nil {
		return err
	}
	s.owe(wire.FrameHeaderLen + len(payload))
	switch p := s.judge(g.First, g.Next()); {
	case p == wanted && g.Count == 0:
		if s.epoch.unknown && s.epoch.unknownAt == g.First {
			return nil // sent again
		}
		s.epoch.unknown, s.epoch.unknownAt = true, g.First
	case p == wanted:
		s.moveTo(g.Next())
	case p == duplicate:
		s.stream.ledger.duplicates.Add(g.Count)
		s.see(g.Next())
		return nil
	default:
		return s.misplaced(p, "gap", g.First, g.Next())
	}
	s.storeGap(g)
	s.stream.lose(g.Count, g.Cause)
	return nil
}

func (s *session) statistics(payload []byte) error {
	st, err := wire.ParseStats(payload)
	if err != nil {
		return err
	}
	s.stream.note(st)
	return nil
}

func (s *session) end(payload []byte) error {
	e, err := wire.ParseEnd(payload)
	if err != nil {
		return err
	}
	if e.Next != s.position {
		return refuse(wire.CodeProtocol, "epoch ends at %d, position is %d", e.Next, s.position)
	}
	s.publish()
	s.storeEnd(e)
	s.ended(s, e)
	s.state = closing
	return s.conclude(time.Now())
}

// conclude answers an end, as soon as all that came before is in our care.
func (s *session) conclude(now time.Time) error {
	if s.settle(); s.owed.IsZero() {
		s.state = resting
		s.out = wire.AppendAck(s.out[:0], wire.Ack{Next: s.position, Ended: true})
		return s.write()
	}
	if now.Sub(s.spoke) >= wire.SignOfLife {
		return s.sign()
	}
	return nil
}
