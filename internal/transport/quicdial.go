package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/quic-go/quic-go"
)

// slot holds the QUIC connection to one endpoint.
type slot struct {
	dialing chan struct{} // of capacity 1: held by who dials
	link    *link         // guarded by Dialer.mu; nil before the first dial
	former  []*link       // guarded by Dialer.mu; opened as we would not any more, and still in use
}

// link is one QUIC connection, shared by the streams on it.
type link struct {
	pc        net.PacketConn
	transport *quic.Transport
	conn      *quic.Conn
	opened    *tls.Config // what Dialer.currentTLS was
	refs      int         // guarded by Dialer.mu; streams, and who is about to open one
	closing   sync.Once
}

func (l *link) alive() bool { return l != nil && l.refs > 0 && l.conn.Context().Err() == nil }

// shut closes the connection, its goroutines and its socket.
func (l *link) shut() {
	l.closing.Do(func() {
		l.conn.CloseWithError(0, "")
		l.transport.Close()
		l.pc.Close()
	})
}

var errNoStreams = errors.New("the relay takes no more streams on this connection")

func (d *Dialer) openQUIC(ctx context.Context, ep Endpoint) (Conn, error) {
	l, err := d.shared(ctx, ep)
	if err != nil {
		return nil, err
	}
	stream, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		d.release(l)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, errNoStreams
		}
		return nil, err
	}
	return newQUICConn(l.conn, stream, func() { d.release(l) }), nil
}

// shared returns the endpoint's connection, dialed anew where it is dead, with
// one reference for the caller.
func (d *Dialer) shared(ctx context.Context, ep Endpoint) (*link, error) {
	s := d.slotOf(ep)
	select {
	case s.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.dialing }()
	current := d.currentTLS()
	if l := d.acquire(s, current); l != nil {
		return l, nil
	}
	l, err := d.dialQUIC(ctx, ep, current)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s.former = slices.DeleteFunc(append(s.former, s.link), func(l *link) bool { return !l.alive() })
	s.link, l.refs = l, 1
	return l, nil
}

func (d *Dialer) slotOf(ep Endpoint) *slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.links == nil {
		d.links = make(map[Endpoint]*slot)
	}
	if d.links[ep] == nil {
		d.links[ep] = &slot{dialing: make(chan struct{}, 1)}
	}
	return d.links[ep]
}

func (d *Dialer) acquire(s *slot, current *tls.Config) *link {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.link.alive() || s.link.opened != current {
		return nil
	}
	s.link.refs++
	return s.link
}

// release gives a reference back; with the last one the connection is closed.
func (d *Dialer) release(l *link) {
	d.mu.Lock()
	l.refs--
	last := l.refs == 0
	d.mu.Unlock()
	if last {
		l.shut()
	}
}

func (d *Dialer) dialQUIC(ctx context.Context, ep Endpoint, current *tls.Config) (*link, error) {
	addrs, err := d.resolve(ctx, ep)
	if err != nil {
		return nil, err
	}
	l, err := race(ctx, addrs, func(ctx context.Context, addr netip.AddrPort) (*link, error) {
		return d.dialLink(ctx, ep, addr, current)
	}, (*link).shut)
	if err != nil {
		return nil, err
	}
	checkBuffers(l.pc, d.log())
	return l, nil
}

func (d *Dialer) dialLink(ctx context.Context, ep Endpoint, addr netip.AddrPort, current *tls.Config) (*link, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	pc, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, fmt.Errorf("open UDP socket: %w", err)
	}
	l := &link{pc: pc, transport: quicTransport(pc), opened: current}
	l.conn, err = l.transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), d.tlsConfig(ep, current), quicConfig())
	if err != nil {
		l.transport.Close()
		pc.Close()
		return nil, err
	}
	return l, nil
}
