package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"
)

// This file is for peers without a certificate: ServeOptions.Trial.

func (s *server) onTrial(state tls.ConnectionState) bool {
	return s.opts.Trial != "" && state.NegotiatedProtocol == s.opts.Trial
}

// try has the peer handled until handle returns, the trial ends or its time
// is up. At the end of ctx it is handle that ends in order.
func (s *server) try(ctx, trial context.Context, conn Conn) {
	trial, cancel := context.WithTimeoutCause(trial, s.opts.TrialTimeout, fmt.Errorf("not done within %s", s.opts.TrialTimeout))
	defer cancel()
	stop := context.AfterFunc(trial, func() {
		if ctx.Err() == nil {
			s.refused(conn.RemoteAddr(), conn.Network(), context.Cause(trial))
			conn.Abort()
		}
	})
	defer stop()
	s.serve(ctx, conn)
}

// tryQUIC takes the one stream of a connection.
func (s *server) tryQUIC(ctx, trial context.Context, conn *quic.Conn) {
	defer conn.CloseWithError(0, "")
	limit, cancel := context.WithTimeoutCause(trial, s.opts.TrialTimeout, fmt.Errorf("not done within %s", s.opts.TrialTimeout))
	defer cancel()
	stream, err := conn.AcceptStream(limit)
	if err != nil {
		if ctx.Err() == nil {
			s.refused(conn.RemoteAddr(), "quic", err)
		}
		return
	}
	s.try(ctx, limit, newQUICConn(conn, stream, func() {}))
}

// Origin is what counts as one address where peers are bounded: an IPv4
// address, or the 64 bits of an IPv6 address that one customer gets.
func Origin(addr net.Addr) netip.Prefix { return origin(addr) }
