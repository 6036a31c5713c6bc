package broker

import (
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// complaints logs what strangers do, but not so much of it that they could
// fill a disk: a burst of ten lines, then one a second.
type complaints struct {
	mu       sync.Mutex
	next     time.Time // when the burst will be spent, less ten seconds
	withheld int
}

func (c *complaints) warn(log *slog.Logger, text string, attrs ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if floor := now.Add(-10 * time.Second); c.next.Before(floor) {
		c.next = floor
	}
	if c.next.After(now) {
		c.withheld++
		return
	}
	c.next = c.next.Add(time.Second)
	if c.withheld > 0 {
		attrs = append(attrs, "withheld", c.withheld)
		c.withheld = 0
	}
	log.Warn(text, attrs...)
}

// strangers are connections whose handshake has not ended. When there are too
// many, the one that has been silent longest makes room.
type strangers struct {
	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

func (s *strangers) enter(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == maxHandshakes {
		s.conns[0].Close() // its handshake fails and is logged
		s.conns = slices.Delete(s.conns, 0, 1)
	}
	s.conns = append(s.conns, conn)
}

func (s *strangers) leave(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.conns, conn); i >= 0 {
		s.conns = slices.Delete(s.conns, i, i+1)
	}
}
