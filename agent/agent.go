// Package agent is the sensor's side of poip. It runs captures, frames their
// packets once, and keeps every one of them until a relay has acknowledged it,
// or else counts it as lost:
//
//	capture.Source → batcher → queue → session ══TLS/QUIC══> relay
//
// A capture's Source fills a batcher, which packs packets into batch frames and
// hands these to the queue of their stream. The stream's uplink holds a session
// with a relay, which empties the queue; when a session breaks, the queue says
// what has to be sent again. internal/wire/PROTOCOL.md specifies what the two
// say to each other.
//
// The agent is handed how to open connections, and knows no certificates.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"poip/agent/capture"
	"poip/auth"
	"poip/internal/journal"
	"poip/internal/transport"
)

// drainTime is how long the agent tries to deliver what it holds, once it is
// to stop. It exits within 5 s.
const drainTime = 3 * time.Second

// mostDialing is how many streams dial a relay at the same time. Those who have
// not proven who they are compete there for few places, for each address
// (pending_per_address, 32 by default).
const mostDialing = 16

// dialTurn is for how long who dials keeps the others waiting. A relay that is
// there has answered by then, or has given the place to somebody else; one that is
// gone must not keep every stream from the next one.
const dialTurn = 2 * time.Second

// Agent runs the captures of one sensor and brings them to a relay.
type Agent struct {
	// Set before Run.

	// Open opens a byte stream to a relay: transport.Dialer.Open.
	Open func(context.Context, transport.Endpoint) (transport.Conn, error)

	// Source makes a capture. New sets it.
	Source func(CaptureConfig) (capture.Source, error)

	// Stdin is where captures of standard input read. New sets it.
	Stdin io.Reader

	// SpoolKey encrypts spools; nil leaves them plain.
	SpoolKey *journal.Key

	// Prepared, if set, is called once all that takes privileges is done.
	Prepared func() error

	// Renewal, if set, keeps the sensor's certificate alive.
	Renewal *Renewal

	// Progress, if set, is told how many bytes of a capture's file are read.
	Progress func(capture string, done, total int64)

	dialing chan struct{} // holds one for each stream that dials

	files func(dir string) journal.FS // where spools are; nil is on disk

	config     Config
	sensor     auth.SensorName
	version    string
	log        *slog.Logger
	exclusions capture.Exclusions

	// Owned by Run.
	sending  context.Context // ends when nothing more is to be sent
	stopping <-chan struct{} // closed when captures are to stop
	uplinks  sync.WaitGroup

	making sync.Mutex // held while a stream is made, which may read a spool from disk

	mu         sync.Mutex
	streams    []*stream    // guarded by mu; in order of their beginning
	conditions []*condition // of the captures; guarded by mu
}

// New makes an agent for a checked configuration. Version is what it calls
// itself at the relay.
func New(config Config, sensor auth.SensorName, version string, log *slog.Logger) *Agent {
	a := &Agent{config: config, sensor: sensor, version: version, log: log, Stdin: os.Stdin}
	a.dialing = make(chan struct{}, mostDialing)
	a.Source = a.source
	a.files = func(string) journal.FS { return nil }
	return a
}

// Resolved keeps captures from seeing the agent's own packets to these
// addresses. It belongs into transport.Dialer.Resolved.
func (a *Agent) Resolved(addrs []netip.AddrPort) {
	if err := a.exclusions.Add("", addrs...); err != nil {
		a.log.Error("captures may see the agent's own packets", "error", err)
	}
}

// dial opens a byte stream when it is its turn.
func (a *Agent) dial(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
	select {
	case a.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	over := sync.OnceFunc(func() { <-a.dialing })
	defer over()
	defer time.AfterFunc(dialTurn, over).Stop()
	return a.Open(ctx, ep)
}

// hold keeps captures from seeing a connection by our own end of it as well.
func (a *Agent) hold(conn transport.Conn) (release func()) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return func() {} // of QUIC all that is known is the relay's end
	}
	release, err := a.exclusions.Hold("tcp", local.AddrPort())
	if err != nil {
		a.log.Error("captures may see the agent's own packets", "error", err)
	}
	return release
}

// Run captures and sends until every capture has ended and everything is
// acknowledged, or ctx has ended and a few seconds are over. It returns an
// error when a capture could not be begun or was broken, or a file was not
// delivered.
func (a *Agent) Run(ctx context.Context) error {
	captures, err := a.captures()
	if err != nil {
		return err
	}
	admin := a.listenAdmin()
	if err := a.prepare(ctx, captures); err != nil {
		admin.close()
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sending, abort := context.WithCancel(context.WithoutCancel(ctx))
	a.sending, a.stopping = sending, ctx.Done()

	var watch sync.WaitGroup
	watch.Go(func() { limitDrain(ctx, sending, abort) })
	watch.Go(func() { a.Renewal.watch(sending) })
	watch.Go(func() { admin.serve(sending) })
	defer watch.Wait()
	defer abort()
	a.recoverSpools(captures)

	broken := make([]error, len(captures))
	var running sync.WaitGroup
	for i, c := range captures {
		running.Go(func() {
			if broken[i] = c.run(ctx); broken[i] == nil {
				return
			}
			if !c.config.finite() {
				stop() // it could not even begin
			} else if len(captures) > 1 {
				c.log.Error("capture is broken; the others go on", "error", broken[i])
			}
		})
	}
	running.Wait() // after this, no more uplinks begin
	a.uplinks.Wait()
	for i, c := range captures {
		if broken[i] == nil {
			broken[i] = c.undelivered()
		}
	}
	return errors.Join(broken...)
}

// limitDrain aborts all sending some time after ctx has ended.
func limitDrain(ctx, sending context.Context, abort func()) {
	select {
	case <-ctx.Done():
	case <-sending.Done():
		return
	}
	select {
	case <-time.After(drainTime):
		abort()
	case <-sending.Done():
	}
}

// captures makes all captures, so that a mistake in one shows before any runs.
func (a *Agent) captures() ([]*capturing, error) {
	var all []*capturing
	for _, cfg := range a.config.Captures {
		source, err := a.Source(cfg)
		if err != nil {
			return nil, fmt.Errorf("capture %s: %w", cfg.Name, err)
		}
		condition := &condition{status: CaptureStatus{Name: cfg.Name, State: CaptureWaiting}}
		if i, ok := source.(*capture.Interface); ok {
			i.Presence = condition.presence
		}
		all = append(all, &capturing{
			condition: condition,
			config:    cfg, source: source, stream: a.newStream, agent: a.version,
			memory: cfg.memory(a.config.Memory), streams: map[string]*stream{},
			log: a.log.With("capture", cfg.Name),
		})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range all {
		a.conditions = append(a.conditions, c.condition)
	}
	return all, nil
}

// newStream makes a stream of a capture and starts its uplink.
func (a *Agent) newStream(c *capturing, capture auth.CaptureName) (*stream, error) {
	a.making.Lock()
	defer a.making.Unlock()
	name := auth.StreamName{Sensor: a.sensor, Capture: capture}
	if a.has(name) {
		return nil, fmt.Errorf("there is a stream %s already: give this capture another name", name)
	}
	log := a.log.With("stream", name.String())
	q := newQueue(c.memory, a.overflow(c))
	u := newUplink(q, a.stopping, log)
	u.endpoints, u.open, u.hold, u.renewal = a.config.Relay, a.dial, a.hold, a.Renewal
	s := &stream{name: name, queue: q, uplink: u, log: log}
	if c.spool != nil {
		a.openSpool(s, c.spool, log)
	}
	a.mu.Lock()
	a.streams = append(a.streams, s)
	a.mu.Unlock()
	a.uplinks.Go(func() { s.deliver(a.sending) })
	return s, nil
}

func (a *Agent) has(name auth.StreamName) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.streams, func(s *stream) bool { return s.name == name })
}

// overflow is what happens to a capture when there is no room left. What is
// finite can wait.
func (a *Agent) overflow(c *capturing) Overflow {
	if c.config.finite() {
		return OverflowBlock
	}
	return a.config.SpoolOverflow
}
