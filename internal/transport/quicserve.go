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

	"github.com/quic-go/quic-go"
)

// ServeQUIC is ServeTLS for QUIC: it takes pc over, and calls handle for each
// stream of each connection.
//
// Every newcomer has to prove first that its address is its own (Retry): that
// costs one round trip at a dial which is rare, keeps no state for forged
// addresses, and sends less than comes in.
func ServeQUIC(ctx context.Context, pc net.PacketConn, cfg *tls.Config, opts ServeOptions, handle func(context.Context, Conn)) error {
	s := newServer(opts, handle)
	transport := quicTransport(pc)
	transport.VerifySourceAddress = func(net.Addr) bool { return true }
	transport.ConnContext = func(conn context.Context, info *quic.ClientInfo) (context.Context, error) {
		return s.enterQUIC(ctx, conn, info)
	}
	defer pc.Close()
	defer transport.Close()
	config := quicConfig()
	config.HandshakeIdleTimeout = s.opts.HandshakeTimeout / 2
	config.MaxIncomingStreams = int64(s.opts.MaxStreams)
	ln, err := transport.ListenEarly(cfg, config) // so that whoever stalls in the handshake can be ended; config allows no 0-RTT
	if err != nil {
		return fmt.Errorf("listen for QUIC on %s: %w", pc.LocalAddr(), err)
	}
	checkBuffers(pc, s.opts.Log)
	err = s.acceptQUIC(ctx, ln)
	shutQUIC(ln)
	s.running.Wait()
	return err
}

// shutQUIC takes no more connections, and ends those that nobody has accepted.
func shutQUIC(ln *quic.EarlyListener) {
	ln.Close()
	for {
		conn, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		conn.CloseWithError(0, "")
	}
}

// newcomer is kept in the context of a connection.
type newcomer struct {
	who    *Stranger
	proven sync.Once // its handshake has ended, well or not
}

type newcomerKey struct{}

// enterQUIC takes a place at the gate. It is given back when the handshake has
// ended, or the connection before that. Until the client's first message is
// complete, quic-go has nothing for us that could be closed: a canceled context
// ends it when the client goes on with that message, and else its time does.
func (s *server) enterQUIC(serving, conn context.Context, info *quic.ClientInfo) (context.Context, error) {
	trial, end := context.WithCancelCause(conn)
	who, err := s.gate.enterSticky(info.RemoteAddr, func() { end(errEvicted) })
	if err != nil {
		end(nil)
		s.refused(info.RemoteAddr, "quic", err)
		return nil, err
	}
	n := &newcomer{who: who}
	s.running.Add(1)
	context.AfterFunc(trial, func() {
		defer s.running.Done()
		n.proven.Do(func() {
			s.gate.Leave(who)
			if serving.Err() == nil {
				s.refused(info.RemoteAddr, "quic", context.Cause(trial))
			}
		})
	})
	return context.WithValue(trial, newcomerKey{}, n), nil
}

func (s *server) acceptQUIC(ctx context.Context, ln *quic.EarlyListener) error {
	for {
		conn, err := ln.Accept(ctx)
		switch {
		case err == nil:
			s.running.Go(func() { s.welcomeQUIC(ctx, conn) })
		case ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("accept QUIC on %s: %w", ln.Addr(), err)
		}
	}
}

// welcomeQUIC lets a stranger whose first message has come become a peer, in
// the context of its trial, which the gate may end.
func (s *server) welcomeQUIC(ctx context.Context, conn *quic.Conn) {
	n := conn.Context().Value(newcomerKey{}).(*newcomer)
	trial, end := context.WithCancelCause(ctx)
	defer end(nil)
	s.gate.unstick(n.who, func() { end(errEvicted) })
	if err := handshakeQUIC(trial, conn); err != nil {
		conn.CloseWithError(0, err.Error())
		return
	}
	n.proven.Do(func() {}) // the place is given back here
	if s.onTrial(conn.ConnectionState().TLS) {
		defer s.gate.Leave(n.who)
		s.tryQUIC(ctx, trial, conn)
		return
	}
	s.gate.Leave(n.who)
	s.serveQUIC(ctx, conn)
}

func handshakeQUIC(trial context.Context, conn *quic.Conn) error {
	select {
	case <-conn.HandshakeComplete():
		return nil
	case <-conn.Context().Done():
		return context.Cause(conn.Context())
	case <-trial.Done():
		return context.Cause(trial)
	}
}

// serveQUIC closes the connection when it takes no more streams and all of
// them have ended, or when there are none for too long.
func (s *server) serveQUIC(ctx context.Context, conn *quic.Conn) {
	life, end := context.WithCancel(ctx)
	defer end()
	leave, err := s.opts.Admit(&Peer{conn, end})
	if err != nil {
		conn.CloseWithError(0, err.Error())
		return
	}
	defer leave()
	var streams sync.WaitGroup
	idle := lull{limit: s.opts.StreamTimeout}
	idle.timer = time.AfterFunc(idle.limit, func() { conn.CloseWithError(0, "no stream") })
	defer idle.timer.Stop()
	for {
		stream, err := conn.AcceptStream(life)
		if err != nil {
			s.ended(life, conn, err)
			break
		}
		idle.begins()
		streams.Go(func() {
			defer idle.ends()
			s.serve(ctx, newQUICConn(conn, stream, func() {}))
		})
	}
	streams.Wait()
	conn.CloseWithError(0, "")
}

// lull runs its timer while there is no stream.
type lull struct {
	limit time.Duration
	timer *time.Timer

	mu      sync.Mutex
	streams int // guarded by mu
}

func (l *lull) begins() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams++
	l.timer.Stop()
}

func (l *lull) ends() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams--; l.streams == 0 {
		l.timer.Reset(l.limit)
	}
}

// ended logs a connection that broke; one that was closed is none of that.
func (s *server) ended(ctx context.Context, conn *quic.Conn, err error) {
	var closed *quic.ApplicationError
	if ctx.Err() == nil && !errors.As(err, &closed) {
		s.opts.Log.Info("QUIC connection ended", slog.String("remote", conn.RemoteAddr().String()), slog.String("reason", err.Error()))
	}
}
