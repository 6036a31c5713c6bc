package broker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"

	"poip/internal/transport"
)

// knownAtOnce bounds the connections of those who are known to the administration.
const knownAtOnce = 64

// A hall is where whoever connects to the administration waits until it is
// known: until one of its requests was good. So long it has a place at the
// gate, and whoever has waited longest makes room for a newcomer.
type hall struct {
	net.Listener
	gate    *transport.Gate
	refused func(net.Addr, error)

	mu    sync.Mutex
	known int // guarded by mu
}

// A waiter is one connection of the hall.
type waiter struct {
	net.Conn
	hall  *hall
	place *transport.Stranger

	login         [sha256.Size]byte // that was right last; owned by the goroutine that serves it
	known, closed bool              // guarded by hall.mu
}

func (h *hall) Accept() (net.Conn, error) {
	for {
		conn, err := h.Listener.Accept()
		if err != nil {
			return nil, err
		}
		place, err := h.gate.Enter(conn.RemoteAddr(), func() { conn.Close() })
		if err == nil {
			return &waiter{Conn: conn, hall: h, place: place}, nil
		}
		conn.Close()
		h.refused(conn.RemoteAddr(), err)
	}
}

// recognize gives the place at the gate to others, unless too many are known:
// then the connection is held like a stranger's.
func (w *waiter) recognize() {
	h := w.hall
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.known || w.closed || h.known == knownAtOnce {
		return
	}
	w.known = true
	h.known++
	h.gate.Leave(w.place)
}

func (w *waiter) Close() error {
	h := w.hall
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.known && !w.closed {
		h.known--
	}
	w.closed = true
	h.gate.Leave(w.place)
	return w.Conn.Close()
}

type waiterKey struct{}

// withWaiter lets waiterOf find the connection of a request; for http.Server.
func withWaiter(ctx context.Context, conn net.Conn) context.Context {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	return context.WithValue(ctx, waiterKey{}, conn)
}

// waiterOf is the connection of a request, or one that is like new and nobody keeps.
func waiterOf(r *http.Request) *waiter {
	if w, ok := r.Context().Value(waiterKey{}).(*waiter); ok {
		return w
	}
	return &waiter{hall: new(hall), closed: true}
}

// noteHandshake says who did not get through the handshake; for http.Server.
func (b *Broker) noteHandshake(conn net.Conn, state http.ConnState) {
	secured, ok := conn.(*tls.Conn)
	if !ok || state != http.StateClosed {
		return
	}
	if err := secured.Handshake(); err != nil { // it has ended; what became of it is said again
		b.refuseAtHall(conn.RemoteAddr(), err)
	}
}

func (b *Broker) refuseAtHall(remote net.Addr, reason error) {
	d := denial{text: reason.Error(), word: "handshake"}
	errors.As(reason, &d)
	b.auditDenial(remote.String(), d)
}
