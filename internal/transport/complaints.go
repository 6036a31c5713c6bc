package transport

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// complaints logs what strangers do wrong, but not so much of it that they
// could fill a disk: a burst of ten, then one a second.
type complaints struct {
	log *slog.Logger // set once

	mu       sync.Mutex
	tokens   float64   // guarded by mu
	filled   time.Time // guarded by mu
	withheld int       // guarded by mu; lines since the last one
}

const complaintBurst = 10

func (c *complaints) say(level slog.Level, msg string, attrs ...slog.Attr) {
	if withheld, ok := c.allow(time.Now()); ok {
		if withheld > 0 {
			attrs = append(attrs, slog.Int("withheld", withheld))
		}
		c.log.LogAttrs(context.Background(), level, msg, attrs...)
	}
}

func (c *complaints) allow(now time.Time) (withheld int, ok bool) {
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
