package capture

import (
	"context"
	"time"
)

// Pace says how fast the packets of a file are read.
type Pace string

// The paces.
const (
	PaceMax      Pace = "max"      // as fast as they are taken
	PaceOriginal Pace = "original" // with the pauses that they had on the wire
)

// leastPause is not worth a wake-up: so much earlier a packet may be sent.
const leastPause = time.Millisecond

// A pacer lets packets pass in their own time.
type pacer struct {
	// Set before the first packet.
	now   func() time.Time
	sleep func(context.Context, time.Duration) error

	due  time.Time // when the latest packet was to be sent
	last time.Time // when it was captured; zero before the first
}

func newPacer() *pacer { return &pacer{now: time.Now, sleep: sleep} }

// wait returns when a packet of that time is due, or with the error of ctx. It
// calls flush before it sleeps. Time that runs backwards is not waited for, nor
// are packets without a time, which pcapng allows.
func (p *pacer) wait(ctx context.Context, sec, nsec uint32, flush func()) error {
	if sec == 0 && nsec == 0 {
		return nil
	}
	captured := time.Unix(int64(sec), int64(nsec))
	if p.last.IsZero() {
		p.due = p.now()
	} else if step := captured.Sub(p.last); step > 0 {
		p.due = p.due.Add(step)
	}
	p.last = captured
	early := p.due.Sub(p.now())
	if early < leastPause {
		return nil
	}
	flush()
	return p.sleep(ctx, early)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
