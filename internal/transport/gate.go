package transport

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// evictAfter is how long a stranger keeps its place against a newcomer. A
// handshake takes a round trip or two; silence takes for ever. The shorter it
// is, the faster a flood has to be to keep others out.
const evictAfter = 100 * time.Millisecond

// A Gate bounds how many strangers, peers whose handshake has not ended, are
// let in at once: in all, and from one address. When it is full, a newcomer
// takes the place of who has been a stranger longest, unless all are fresh.
type Gate struct {
	mu                sync.Mutex
	most, mostPerAddr int         // guarded by mu
	strangers         []*Stranger // guarded by mu; the oldest first
}

// NewGate has room for so many in all, and so many of one address (of IPv6:
// one /64).
func NewGate(most, mostPerAddr int) *Gate { return &Gate{most: most, mostPerAddr: mostPerAddr} }

// Resize changes the bounds for those who come from now on.
func (g *Gate) Resize(most, mostPerAddr int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.mostPerAddr = most, mostPerAddr
}

// A Stranger is a connection whose peer has not proven itself.
type Stranger struct {
	addr  netip.Prefix
	since time.Time
	evict func() // nil: keeps its place
}

var (
	errCrowded = errors.New("too many connections that have not proven themselves")
	errEvicted = errors.New("it kept silent, and its place was needed")
)

// Enter takes a place, which is given back by Leave. Evict is called when
// somebody else needs it; where it is nil, the place is kept. Half of all places
// are for those who can be evicted: others who keep silent cannot shut them out.
func (g *Gate) Enter(remote net.Addr, evict func()) (*Stranger, error) {
	s := &Stranger{addr: origin(remote), since: time.Now(), evict: evict}
	g.mu.Lock()
	defer g.mu.Unlock()
	same := func(o *Stranger) bool { return o.addr == s.addr }
	anyone := func(*Stranger) bool { return true }
	staying := func(o *Stranger) bool { return o.evict == nil }
	if evict == nil && !g.makeRoom(staying, (g.most+1)/2) {
		return nil, errCrowded
	}
	if !g.makeRoom(same, g.mostPerAddr) || !g.makeRoom(anyone, g.most) {
		return nil, errCrowded
	}
	g.strangers = append(g.strangers, s)
	return s, nil
}

// makeRoom sees to it that fewer than most of a kind are here; for holders of mu.
func (g *Gate) makeRoom(kind func(*Stranger) bool, most int) bool {
	n := 0
	for _, s := range g.strangers {
		if kind(s) {
			n++
		}
	}
	if n < most {
		return true
	}
	i := slices.IndexFunc(g.strangers, func(s *Stranger) bool { return kind(s) && s.evict != nil })
	if i < 0 || time.Since(g.strangers[i].since) < evictAfter {
		return false
	}
	g.strangers[i].evict()
	g.strangers = slices.Delete(g.strangers, i, i+1)
	return true
}

// evictable lets a stranger's place be taken after all.
func (g *Gate) evictable(s *Stranger, evict func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.evict = evict
}

// Leave gives the place back. It may be called again, and after an eviction.
func (g *Gate) Leave(s *Stranger) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.strangers, s); i >= 0 {
		g.strangers = slices.Delete(g.strangers, i, i+1)
	}
}

// origin is what counts as one address: an IPv4 address, or the 64 bits of an
// IPv6 address that one customer gets.
func origin(addr net.Addr) netip.Prefix {
	var ap netip.AddrPort
	switch a := addr.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits) // of the zero Addr: the zero Prefix
	return p
}
