package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// ServeOptions are the limits of a serving side. Zero values mean the defaults.
type ServeOptions struct {
	Log               *slog.Logger // default: slog.Default()
	Gate              *Gate        // bounds connections that have not proven themselves; default:
	MaxPending        int          // one of its own for 256 in all
	MaxPendingPerAddr int          // and 32 from one address (IPv6: one /64)
	MaxStreams        int          // streams on one QUIC connection: 256
	HandshakeTimeout  time.Duration
	StreamTimeout     time.Duration // for which a QUIC connection may have no stream: 30 s

	// Refused, if set, is told of everybody who did not get in. It must not wait.
	Refused func(remote net.Addr, network string, reason error)

	// Admit, if set, decides about each QUIC connection whose peer has proven
	// itself, before its first stream; handle decides about each stream, and
	// over TCP. Leave is called when the connection is closed. The peer is told
	// the error, and nobody else is.
	Admit func(*Peer) (leave func(), err error)

	// Trial names a protocol whose peers have no certificate. Their
	// handshake proves nothing, so they keep their place among those that
	// have not proven themselves until handle returns, and have TrialTimeout
	// for it, after which the connection is cut. Over QUIC they have one stream.
	Trial        string
	TrialTimeout time.Duration
}

func (o ServeOptions) withDefaults() ServeOptions {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	fill := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	fill(&o.MaxPending, 256)
	fill(&o.MaxPendingPerAddr, 32)
	fill(&o.MaxStreams, 256)
	if o.Gate == nil {
		o.Gate = NewGate(o.MaxPending, o.MaxPendingPerAddr)
	}
	if o.HandshakeTimeout <= 0 {
		o.HandshakeTimeout = handshakeTimeout
	}
	if o.StreamTimeout <= 0 {
		o.StreamTimeout = streamTimeout
	}
	if o.TrialTimeout <= 0 {
		o.TrialTimeout = trialTimeout
	}
	if o.Admit == nil {
		o.Admit = func(*Peer) (func(), error) { return func() {}, nil }
	}
	return o
}

// server is what serving over TCP and over QUIC share.
type server struct {
	opts       ServeOptions
	gate       *Gate
	complaints Complaints
	handle     func(context.Context, Conn)
	running    sync.WaitGroup
}

func newServer(opts ServeOptions, handle func(context.Context, Conn)) *server {
	opts = opts.withDefaults()
	return &server{
		opts:   opts,
		gate:   opts.Gate,
		handle: handle,
	}
}

// ServeTLS accepts connections from ln, which becomes its own, and calls
// handle for each whose handshake was good, in a goroutine. It returns when
// ctx is done, or ln has failed, and all handles have returned. The listener
// is closed as soon as ctx is done; handles watch ctx themselves. A Conn that
// its handle leaves open is closed.
func ServeTLS(ctx context.Context, ln net.Listener, cfg *tls.Config, opts ServeOptions, handle func(context.Context, Conn)) error {
	s := newServer(opts, handle)
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	err := s.accept(ctx, ln, cfg)
	if stop() {
		ln.Close()
	}
	s.running.Wait()
	return err
}

// accept goes on through errors that pass, such as too many open files.
func (s *server) accept(ctx context.Context, ln net.Listener, cfg *tls.Config) error {
	var pause backoff
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		case err != nil:
			s.complaints.Warn(s.opts.Log, "cannot accept; pausing", "listener", ln.Addr().String(), "error", err)
			pause.wait(ctx)
		default:
			pause.reset()
			s.admit(ctx, conn, cfg)
		}
	}
}

// admit starts the handshake of conn if the gate has a place.
func (s *server) admit(ctx context.Context, conn net.Conn, cfg *tls.Config) {
	trial, end := context.WithCancelCause(ctx)
	who, err := s.gate.Enter(conn.RemoteAddr(), func() { end(errEvicted) })
	if err != nil {
		end(nil)
		s.refused(conn.RemoteAddr(), "tls", err)
		conn.Close()
		return
	}
	s.running.Go(func() {
		defer end(nil)
		s.serveTLS(ctx, trial, conn, cfg, who)
	})
}

// serveTLS lets a stranger become a peer, in the context of its trial, which
// the gate may end; then the peer is handled in ctx.
func (s *server) serveTLS(ctx, trial context.Context, conn net.Conn, cfg *tls.Config, who *Stranger) {
	tuneTCP(conn)
	cork := NewCork(conn, GatherSize)
	secured := tls.Server(cork, cfg)
	err := handshake(trial, secured, s.opts.HandshakeTimeout)
	if err == nil && s.onTrial(secured.ConnectionState()) {
		s.try(ctx, trial, newTLSConn(secured, cork, congestionOf(conn)))
		s.gate.Leave(who)
		return
	}
	s.gate.Leave(who)
	if err != nil {
		conn.Close()
		if ctx.Err() == nil {
			s.refused(conn.RemoteAddr(), "tls", err)
		}
		return
	}
	s.serve(ctx, newTLSConn(secured, cork, congestionOf(conn)))
}

// handshake holds the peer to a deadline, which ends when the peer is trusted.
func handshake(ctx context.Context, conn *tls.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no handshake within %s", limit))
	defer cancel()
	err := conn.HandshakeContext(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *server) serve(ctx context.Context, conn Conn) {
	defer conn.Close()
	s.handle(ctx, conn)
}

// refused logs why somebody did not get in. The reason may hold the peer's
// bytes; slog quotes them.
func (s *server) refused(remote net.Addr, network string, reason error) {
	if _, ok := remoteAlert(reason); ok {
		reason = fmt.Errorf("the peer refuses us: %w", reason)
	}
	if s.opts.Refused != nil {
		s.opts.Refused(remote, network, reason)
	}
	s.complaints.Warn(s.opts.Log, "refused a connection", "remote", remote.String(), "network", network, "reason", reason.Error())
}

// backoff is the pause after an accept that failed: 5 ms, doubled up to a second.
type backoff struct{ next time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) wait(ctx context.Context) {
	b.next = min(max(2*b.next, 5*time.Millisecond), time.Second)
	select {
	case <-ctx.Done():
	case <-time.After(b.next):
	}
}
