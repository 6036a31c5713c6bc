package agent

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"poip/internal/transport"
	"poip/internal/wire"
)

// An uplink brings one stream's queue to a relay: it finds an endpoint that
// takes it, holds a session there, and begins again when that breaks, until
// everything is said or its context ends.
type uplink struct {
	queue     *queue
	endpoints []transport.Endpoint // tried in order
	open      func(context.Context, transport.Endpoint) (transport.Conn, error)
	hold      func(transport.Conn) (release func()) // from the eyes of captures
	stopping  <-chan struct{}                       // closed when the agent is to stop: make haste
	load      func(*epoch) error                    // brings back what is on disk only; nil: nothing is
	renewal   *Renewal                              // of the sensor's certificate; nil: none
	log       *slog.Logger

	// Owned by run.
	backoff backoff
	said    map[string]complaint // the last one about each endpoint
	lost    [causes]uint64
	lostAt  time.Time // when losses were last told

	mu   sync.Mutex
	link link
}

// A complaint is remembered so that the same is not said more than once a
// minute.
type complaint struct {
	text string
	at   time.Time
}

// link is what an uplink shows of itself, guarded by its mu.
type link struct {
	state    State
	relay    string // the endpoint, when connected
	sessions uint64 // that a relay has accepted
	trouble  string // what went wrong last, until the next success
}

func newUplink(q *queue, stopping <-chan struct{}, log *slog.Logger) *uplink {
	return &uplink{
		queue: q, stopping: stopping, log: log,
		hold:    func(transport.Conn) func() { return func() {} },
		backoff: backoff{least: leastDelay, most: mostDelay},
		said:    map[string]complaint{},
		link:    link{state: StateIdle},
	}
}

// run returns when nothing is left to say, or ctx has ended.
func (u *uplink) run(ctx context.Context) {
	for u.awaitEpoch(ctx) {
		pause, err := u.round(ctx)
		switch {
		case err == nil:
			u.show(func(l *link) { l.state = StateDone })
			return
		case ctx.Err() != nil, u.isStopping() && codeOf(err) != 0:
			return
		}
		if !u.sleep(ctx, pause) {
			return
		}
	}
}

// awaitEpoch waits until there is something to say. It returns false when
// there never will be.
func (u *uplink) awaitEpoch(ctx context.Context) bool {
	for !u.queue.hasEpoch() {
		if u.queue.finished() {
			u.show(func(l *link) { l.state = StateDone })
			return false
		}
		select {
		case <-u.queue.wake:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// round tries the endpoints in order, until one has held a session that was
// worth its name or everything is said. It returns how long to pause.
func (u *uplink) round(ctx context.Context) (pause time.Duration, err error) {
	for i, ep := range u.endpoints {
		var healthy bool
		healthy, err = u.attempt(ctx, ep)
		if err == nil || ctx.Err() != nil {
			return 0, err
		}
		if healthy {
			u.backoff.reset()
			pause = 0 // what others said was before that session
		}
		pause = max(pause, floorOf(err))
		last := i == len(u.endpoints)-1 || !tryNext(healthy, err)
		if last {
			pause = max(u.backoff.jittered(), pause)
		}
		u.complain(ep, err, last, pause)
		if last {
			break
		}
	}
	return pause, err
}

// attempt holds one session. It returns nil when everything is said.
func (u *uplink) attempt(ctx context.Context, ep transport.Endpoint) (healthy bool, err error) {
	u.show(func(l *link) { l.state = StateConnecting })
	conn, err := u.open(ctx, ep)
	if err != nil {
		return false, err
	}
	defer u.hold(conn)()
	began := time.Time{}
	s := newSession(u.queue, conn, func(hello wire.Hello, ack wire.HelloAck) {
		log := u.log.With("epoch", hello.Epoch, "position", ack.Position)
		if !began.IsZero() {
			log.Info("relay takes the next epoch")
			return
		}
		began = time.Now()
		log.Info("connected to relay", "relay", ep.String(), "remote", conn.RemoteAddr().String(), "congestion", conn.Congestion())
		u.connected(ep)
	}, u.tellLosses)
	s.renewal, s.load = u.renewal, u.load
	defer u.renewal.left(s)
	err = s.run(ctx)
	lasted := !began.IsZero() && time.Since(began) >= healthyAfter
	return s.proven.Load() || lasted, err
}

func (u *uplink) connected(ep transport.Endpoint) {
	clear(u.said)
	u.show(func(l *link) {
		l.state, l.relay, l.trouble = StateConnected, ep.String(), ""
		l.sessions++
	})
}

// tellLosses logs packets that were lost since it last did, once a minute at
// most.
func (u *uplink) tellLosses() {
	lost := u.queue.totals().lost
	if lost == u.lost || time.Since(u.lostAt) < time.Minute {
		return
	}
	log := u.log
	for cause, n := range lost {
		if more := n - u.lost[cause]; more > 0 {
			log = log.With(wire.Cause(cause).String(), more)
		}
	}
	u.lost, u.lostAt = lost, time.Now()
	log.Warn("packets were lost")
}

// localPort is what makes each connection's error another text, as in "read tcp
// 192.0.2.7:40213->192.0.2.1:57011: connection reset by peer".
var localPort = regexp.MustCompile(`:[0-9]+->`)

// complain logs a failure, the same one once a minute at most.
func (u *uplink) complain(ep transport.Endpoint, err error, pausing bool, pause time.Duration) {
	u.tellLosses()
	u.show(func(l *link) {
		l.relay, l.trouble = "", err.Error()
		if l.state = StateWaiting; codeOf(err) != 0 {
			l.state = StateRefused
		}
	})
	said := complaint{localPort.ReplaceAllString(err.Error(), "->"), time.Now()}
	if last := u.said[ep.String()]; said.text == last.text && said.at.Sub(last.at) < time.Minute {
		return
	}
	u.said[ep.String()] = said
	log := u.log.With("relay", ep.String(), "error", err)
	if pausing {
		log = log.With("retry_in", pause.Round(time.Millisecond).String())
	}
	if remedy := remedyOf(err); remedy != "" {
		log = log.With("remedy", remedy)
	}
	log.Log(context.Background(), levelOf(err), "no uplink")
}

func levelOf(err error) slog.Level {
	switch codeOf(err) {
	case wire.CodeDraining:
		return slog.LevelInfo
	case wire.CodeVersion, wire.CodeForbidden, wire.CodeFenced, wire.CodeProtocol, wire.CodeHole, wire.CodeCorrupt, wire.CodeRevoked, wire.CodeExpired:
		return slog.LevelError
	}
	if errors.Is(err, wire.ErrMalformed) {
		return slog.LevelError
	}
	return slog.LevelWarn
}

// sleep waits before the next round, less when the agent is to stop. It
// returns false when ctx has ended.
func (u *uplink) sleep(ctx context.Context, d time.Duration) bool {
	stopping := u.stopping
	if u.isStopping() {
		stopping, d = nil, min(d, stoppingDelay)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopping:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func (u *uplink) isStopping() bool {
	select {
	case <-u.stopping:
		return true
	default:
		return false
	}
}

func (u *uplink) show(change func(*link)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change(&u.link)
}
