package transport

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// evictAfter is how long a stranger keeps its place against a newcomer. A
	// handshake takes a round trip or two; silence takes for ever. The shorter
	// it is, the faster a flood has to be to keep others out.
	evictAfter = 100 * time.Millisecond

	// stickyAfter is the same for those who take memory for some seconds after
	// they were evicted: the longer it is, the less there can be of them.
	stickyAfter = time.Second
)

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
	addr   netip.Prefix
	since  time.Time
	sticky bool // guarded by Gate.mu; is not gone at once when it is evicted
	evict  func()
}

// keeps is how long the place is its own; for holders of Gate.mu.
func (s *Stranger) keeps() time.Duration {
	if s.sticky {
		return stickyAfter
	}
	return evictAfter
}

var (
	errCrowded = errors.New("too many connections that have not proven themselves")
	errEvicted = errors.New("it kept silent, and its place was needed")
)

// Enter takes a place, which is given back by Leave. Evict is called when
// somebody else needs it; it does not wait.
func (g *Gate) Enter(remote net.Addr, evict func()) (*Stranger, error) {
	return g.enter(&Stranger{addr: origin(remote), since: time.Now(), evict: evict})
}

// enterSticky is Enter for who is not gone when it is evicted. Such strangers
// have half of all places, and of one address a quarter: they cannot shut
// out the others, nor a few addresses the other ones.
func (g *Gate) enterSticky(remote net.Addr, evict func()) (*Stranger, error) {
	return g.enter(&Stranger{addr: origin(remote), since: time.Now(), evict: evict, sticky: true})
}

func (g *Gate) enter(s *Stranger) (*Stranger, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	same := func(o *Stranger) bool { return o.addr == s.addr }
	anyone := func(*Stranger) bool { return true }
	sticky := func(o *Stranger) bool { return o.sticky }
	stickySame := func(o *Stranger) bool { return o.sticky && same(o) }
	if s.sticky && (!g.makeRoom(stickySame, (g.mostPerAddr+3)/4) || !g.makeRoom(sticky, (g.most+1)/2)) {
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
	i := slices.IndexFunc(g.strangers, func(s *Stranger) bool { return kind(s) && time.Since(s.since) >= s.keeps() })
	if i < 0 {
		return false
	}
	g.strangers[i].evict()
	g.strangers = slices.Delete(g.strangers, i, i+1)
	return true
}

// unstick says that a stranger is gone from now on when evict was called.
func (g *Gate) unstick(s *Stranger, evict func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.sticky, s.evict = false, evict
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
