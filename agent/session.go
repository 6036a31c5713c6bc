package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"poip/internal/transport"
	"poip/internal/wire"
)

// lastWords is how long a session that cannot write any more listens for the
// relay's reason.
const lastWords = time.Second

// A session is one conversation of a stream with a relay, on one connection:
// epoch after epoch, until nothing is left to say or something breaks. Run's
// goroutine sends, another one listens.
type session struct {
	queue   *queue
	conn    transport.Conn
	greeted func(wire.Hello, wire.HelloAck) // told of each epoch that the relay takes
	pulse   func()                          // called whenever statistics are sent
	load    func(*epoch) error              // brings back what is on disk only; nil: nothing is
	renewal *Renewal                        // of the sensor's certificate; nil: none

	answer chan wire.HelloAck // from the listener to the sender
	over   atomic.Bool        // the sender has said everything; what the listener meets now is no error
	proven atomic.Bool        // something that was sent has been acknowledged
	idle   atomic.Int64       // time.Duration of silence after which the link is dead; set by the listener

	// Owned by the sender.
	scratch []byte

	// Owned by the listener.
	streaming bool              // between a hello-ack and the end's answer
	position  wire.PacketNumber // in the hello-ack
}

func newSession(q *queue, conn transport.Conn, greeted func(wire.Hello, wire.HelloAck), pulse func()) *session {
	s := &session{queue: q, conn: conn, greeted: greeted, pulse: pulse, answer: make(chan wire.HelloAck, 1)}
	s.idle.Store(int64(wire.Idle))
	return s
}

func (s *session) patience() time.Duration { return time.Duration(s.idle.Load()) }

// run returns nil when everything was said and acknowledged. The connection
// is closed then.
func (s *session) run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	unwatch := context.AfterFunc(ctx, func() { s.conn.Abort() })
	defer unwatch()

	s.conn.SetWritePatience(s.patience()) // an error shows in the write
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if err := s.listen(); err != nil && !s.over.Load() {
			fail(err)
		}
	}()
	err := s.send(ctx)
	if err == nil {
		s.over.Store(true)
		s.conn.Close() // all is acknowledged; nothing can be lost any more
	} else {
		err = s.reason(ctx, err, listening)
		s.conn.Abort()
	}
	<-listening
	return err
}

// reason prefers what the relay says, or why we stopped, over a failed write.
func (s *session) reason(ctx context.Context, err error, listening <-chan struct{}) error {
	select {
	case <-listening:
	case <-ctx.Done():
	case <-time.After(lastWords):
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (s *session) send(ctx context.Context) error {
	var last *epoch // that the relay has taken
	for {
		ep, hello := s.queue.greet(time.Now().UnixNano())
		switch {
		case ep == nil && s.queue.finished():
			return nil
		case ep == nil:
			if err := s.wait(ctx, last); err != nil {
				return err
			}
			continue
		}
		if err := s.hello(ctx, hello); err != nil {
			return err
		}
		if err := s.stream(ctx, ep); err != nil {
			return err
		}
		last = ep
	}
}

// wait waits for the next epoch. The relay hears meanwhile how the last one came
// out, as a sign of life: before the first hello it takes none.
func (s *session) wait(ctx context.Context, last *epoch) error {
	if last == nil {
		return s.rest(ctx, nil, nil)
	}
	alive := s.signsOfLife()
	defer alive.Stop()
	return s.rest(ctx, last, alive.C)
}

func (s *session) signsOfLife() *time.Ticker {
	return time.NewTicker(min(wire.SignOfLife, s.patience()/3))
}

// hello opens an epoch and waits for the answer; the listener's deadline
// bounds that.
func (s *session) hello(ctx context.Context, hello wire.Hello) error {
	s.scratch = wire.AppendHello(s.scratch[:0], hello)
	if err := s.write(s.scratch); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	select {
	case ack := <-s.answer:
		s.conn.SetWritePatience(s.patience()) // as the relay wants it
		s.greeted(hello, ack)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stream sends an epoch until the relay has answered its end.
func (s *session) stream(ctx context.Context, ep *epoch) error {
	alive := s.signsOfLife()
	defer alive.Stop()
	s.report(ep)
	if err := s.write(s.scratch); err != nil {
		return err
	}
	for {
		var err error
		what, it := s.queue.take(ep)
		switch what {
		case epochOver:
			return nil
		case sendItem:
			err = s.item(it)
		case readSpool:
			err = s.load(ep)
		case sendEnd:
			err = s.end(ep)
		case nothing:
			err = s.rest(ctx, ep, alive.C)
		}
		if err != nil {
			return err
		}
		if due(alive.C) {
			if err := s.stats(ep); err != nil {
				return err
			}
		}
	}
}

// rest sends what was gathered and waits until there is more.
func (s *session) rest(ctx context.Context, ep *epoch, alive <-chan time.Time) error {
	if err := s.flush(); err != nil {
		return err
	}
	select {
	case <-s.queue.wake:
		return nil
	case <-alive:
		return s.stats(ep)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func due(c <-chan time.Time) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (s *session) item(it *item) error {
	if it.isGap() {
		s.scratch = wire.AppendGap(s.scratch[:0], it.gap())
		return s.write(s.scratch)
	}
	return s.write(s.queue.sealed(it))
}

// end has the relay's view of our counters end with what they came to.
func (s *session) end(ep *epoch) error {
	s.report(ep)
	s.scratch = wire.AppendEnd(s.scratch, wire.End{Next: ep.next, Final: ep.final})
	return s.write(s.scratch)
}

func (s *session) stats(ep *epoch) error {
	s.pulse()
	s.report(ep)
	if request := s.renewal.ask(s); request != nil {
		s.scratch = wire.AppendRenew(s.scratch, wire.Renew{Request: request})
	}
	return s.write(s.scratch)
}

// report begins scratch with the counters.
func (s *session) report(ep *epoch) {
	s.scratch = wire.AppendStats(s.scratch[:0], s.queue.stats(ep, time.Now().UnixNano()))
}

func (s *session) write(frame []byte) error {
	if _, err := s.conn.Write(frame); err != nil {
		return s.explain("send to relay", err)
	}
	return nil
}

func (s *session) flush() error {
	if err := s.conn.Flush(); err != nil {
		return s.explain("send to relay", err)
	}
	return nil
}

// Read hears the relay for as long as anything comes from it.
func (s *session) Read(p []byte) (int, error) {
	for {
		arrived := s.conn.Arrived()
		s.conn.SetReadDeadline(time.Now().Add(s.patience())) // an error shows in the read
		n, err := s.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || s.conn.Arrived() == arrived {
			return n, err
		}
	}
}

// listen reads what the relay says. It returns nil when that was the answer
// to the last end there is.
func (s *session) listen() error {
	r := bufio.NewReaderSize(s, wire.FrameHeaderLen+wire.MaxControlLen)
	var header [wire.FrameHeaderLen]byte
	for {
		h, err := wire.ReadHeader(r, &header)
		if err != nil {
			return s.explain("hear from relay", err)
		}
		if h.Type == wire.TypeBatch {
			return fmt.Errorf("%w: relay sent a batch", wire.ErrMalformed)
		}
		payload, err := r.Peek(h.Length)
		if err != nil {
			return s.explain("hear from relay", err)
		}
		if last, err := s.hear(h.Type, payload); last || err != nil {
			return err
		}
		r.Discard(h.Length)
	}
}

func (s *session) hear(t wire.Type, payload []byte) (last bool, err error) {
	switch t {
	case wire.TypeHelloAck:
		ack, err := wire.ParseHelloAck(payload)
		if err != nil {
			return false, err
		}
		return false, s.accepted(ack)
	case wire.TypeAck:
		ack, err := wire.ParseAck(payload)
		if err != nil {
			return false, err
		}
		return s.acknowledged(ack)
	case wire.TypeRefusal:
		refusal, err := wire.ParseRefusal(payload)
		if err != nil {
			return false, err
		}
		return false, refusal
	case wire.TypeCertificate:
		return false, s.renewal.answered(s, payload)
	case wire.TypeTrust:
		return false, s.renewal.believe(payload)
	}
	return false, fmt.Errorf("%w: relay sent a frame of type %d", wire.ErrMalformed, t)
}

// accepted takes a hello-ack.
func (s *session) accepted(ack wire.HelloAck) error {
	if ack.Version != wire.Version {
		return fmt.Errorf("%w: relay answers in version %d, we speak %d; update the older of the two", wire.ErrMalformed, ack.Version, wire.Version)
	}
	idle := time.Duration(ack.Idle) * time.Millisecond
	if ack.MaxBatch < wire.LeastMaxBatch || idle < wire.LeastIdle || idle > wire.MostIdle {
		return fmt.Errorf("%w: relay's limits are out of bounds: max batch %d, idle %s", wire.ErrMalformed, ack.MaxBatch, idle)
	}
	if err := s.queue.resume(ack.Position, ack.Window); err != nil {
		return err
	}
	s.idle.Store(int64(idle))
	s.streaming, s.position = true, ack.Position
	s.answer <- ack
	return nil
}

// acknowledged takes an ack. Between epochs it is one more of the former.
func (s *session) acknowledged(ack wire.Ack) (last bool, err error) {
	if !s.streaming {
		return false, nil
	}
	if err := s.queue.acknowledge(ack); err != nil {
		return false, err
	}
	if ack.Next > s.position {
		s.proven.Store(true)
	}
	s.streaming = !ack.Ended
	return ack.Ended && s.queue.finished(), nil
}

// explain says what an error of the connection means.
func (s *session) explain(doing string, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: no progress for %s, the link is dead: %w", doing, s.patience(), err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: it closed the connection: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
