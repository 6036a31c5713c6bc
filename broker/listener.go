package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/transport"
)

// handshakeTimeout is for analysts who speak TLS, or should.
const handshakeTimeout = 10 * time.Second

// analystKeepAlive notices an analyst that is gone within half a minute, while
// nothing is written. There is no TCP_USER_TIMEOUT: it would end those who
// only read slowly.
var analystKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// A listener offers some streams to analysts, as its plan says. It has one
// door, or with Each one for every stream.
type listener struct {
	plan  atomic.Pointer[plan] // replaced by one that it serves
	tls   *tls.Config          // nil: plain; each door has its own from it
	tally *tally
	log   *slog.Logger
	live  atomic.Int64 // connections that were let in and are not closed yet

	// tlsOf adds to the configuration of a door whom it lets in; nil: it asks
	// for no certificate. Set once.
	tlsOf func(*door, *tls.Config) *tls.Config

	// Guarded by Broker.mu.
	doors    []*door
	slots    []bool                   // taken numbers of subscribers
	unserved map[auth.StreamName]bool // streams for which the range had no port
	noted    map[auth.StreamName]bool // streams whose link type has been complained of
}

// A door is where analysts come in to one stream, or to all that match.
type door struct {
	listener *listener
	stream   auth.StreamName // the zero name: all that match
	port     uint16
	tls      *tls.Config // nil: plain

	// Guarded by Broker.mu.
	socket      *socket // nil: the port could not be bound; tried again
	bindError   error
	subscribers map[*subscriber]struct{}
	closed      bool
}

// A socket accepts connections for a door. A reload may give it to another
// door, so that a port is never let go of meanwhile.
type socket struct {
	address string // as it was asked for
	ln      net.Listener
	door    atomic.Pointer[door]
}

func newListener(p plan, config *tls.Config, t *tally, log *slog.Logger) *listener {
	l := &listener{
		tls:      config,
		tally:    t,
		log:      log.With("listener", p.config.Name),
		unserved: make(map[auth.StreamName]bool),
		noted:    make(map[auth.StreamName]bool),
	}
	l.plan.Store(&p)
	return l
}

func (l *listener) name() string { return l.plan.Load().config.Name }

func (l *listener) newDoor(stream auth.StreamName, port uint16) *door {
	d := &door{listener: l, stream: stream, port: port, tls: l.tls, subscribers: make(map[*subscriber]struct{})}
	if d.tls != nil && l.tlsOf != nil {
		d.tls = l.tlsOf(d, l.tls)
	}
	l.doors = append(l.doors, d)
	return d
}

// address is what the door's socket is asked for. Port 0, in tests, is a
// different port for each listener.
func (d *door) address() string { return d.listener.plan.Load().address(d.port) }

func (d *door) key() string {
	if d.port == 0 {
		return d.listener.name() + "|" + d.address()
	}
	return d.address()
}

// takes says whether the door offers the stream.
func (d *door) takes(name auth.StreamName) bool { return d.takesBy(d.listener.plan.Load(), name) }

// takesBy is takes by this plan of the listener's.
func (d *door) takesBy(p *plan, name auth.StreamName) bool {
	if p.config.Each {
		return d.stream == name
	}
	return p.matches(name)
}

// takeSlot finds the lowest free number; for holders of Broker.mu.
func (l *listener) takeSlot() int {
	for i, taken := range l.slots {
		if !taken {
			l.slots[i] = true
			return i
		}
	}
	l.slots = append(l.slots, true)
	return len(l.slots) - 1
}

// enter counts a connection in, unless there are too many.
func (l *listener) enter() bool {
	if l.live.Add(1) <= int64(l.plan.Load().config.MaxConnections) {
		return true
	}
	l.live.Add(-1)
	return false
}

// secure makes the connection ready to be written to: with TLS, if there is a
// configuration for it.
func (l *listener) secure(ctx context.Context, conn net.Conn, config *tls.Config) (*outlet, error) {
	chunk := chunkFor(l.live.Load() + 1)
	cork := transport.NewCork(conn, chunk)
	if config == nil {
		return newOutlet(conn, cork, nil, chunk), nil
	}
	secured := tls.Server(cork, config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return newOutlet(conn, cork, secured, chunk), nil
}

// tune sets the socket options of an analyst's connection. A failure is no
// reason to turn anybody away.
func (l *listener) tune(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	err := errors.Join(
		tcp.SetNoDelay(true),
		tcp.SetWriteBuffer(int(l.plan.Load().config.WriteBuffer)),
		tcp.SetKeepAliveConfig(analystKeepAlive),
	)
	if err != nil {
		l.log.Debug("set options of an analyst's socket", "error", err)
	}
}

// addrOf is the IP address of a peer; the zero Addr, if it has none.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
