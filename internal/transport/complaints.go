package transport

import (
	"log/slog"
	"sync"
	"time"
)

// Complaints log what strangers do wrong, but not so much of it that they
// could fill a disk: a burst of ten, then one a second. The zero value is ready.
type Complaints struct {
	mu       sync.Mutex
	tokens   float64   // guarded by mu
	filled   time.Time // guarded by mu
	withheld int       // guarded by mu; lines since the last one
}

const complaintBurst = 10

// Warn logs a line, if it may, with how many were withheld before it.
func (c *Complaints) Warn(log *slog.Logger, text string, attrs ...any) {
	if withheld, ok := c.allow(time.Now()); ok {
		if withheld > 0 {
			attrs = append(attrs, "withheld", withheld)
		}
		log.Warn(text, attrs...)
	}
}

func (c *Complaints) allow(now time.Time) (withheld int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.filled.IsZero() {
		c.tokens, c.filled = complaintBurst, now
	}
	c.tokens = min(complaintBurst, c.tokens+now.Sub(c.filled).Seconds())
	c.filled = now
	if c.tokens < 1 {
		c.withheld++
		return 0, false
	}
	c.tokens--
	withheld, c.withheld = c.withheld, 0
	return withheld, true
}
