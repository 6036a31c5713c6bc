package broker

import (
	"log/slog"
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
