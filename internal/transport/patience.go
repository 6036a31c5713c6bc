package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// A patience bounds how long the writer of a connection waits in vain: as
// long as the network takes something, however little, it puts the deadline off.
// A deadline that others set stays as it is.
//
// Deadlines are set to look whether there was progress, several times within
// the limit; nothing is asked of a write that does not wait.
type patience struct {
	out interface { // set once
		io.Writer
		SetWriteDeadline(time.Time) error
	}
	queued func() int // set once; bytes written that are not with the peer yet, 0 where nobody knows

	mu    sync.Mutex
	limit time.Duration // guarded by mu; 0: a deadline, or none, is in force as it was set
	by    time.Time     // guarded by mu; when to look, the deadline of out
}

// set has writes wait in vain for d at most, from now on. The goroutine that
// writes calls it.
func (p *patience) set(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit, p.by = d, time.Now().Add(d/looks)
	return p.out.SetWriteDeadline(p.by)
}

// end sets a deadline for good, by whatever method of the connection.
func (p *patience) end(set func(time.Time) error, t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = 0
	return set(t)
}

// write writes all of b, or fails.
func (p *patience) write(b []byte) (n int, err error) {
	moved := time.Now()
	if p.wait(moved, moved) == 0 {
		return p.out.Write(b)
	}
	for queued := 0; ; {
		m, err := p.out.Write(b[n:])
		n += m
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now, before := time.Now(), queued
		if queued = p.queued(); m > 0 || queued < before {
			moved = now
		}
		switch limit := p.wait(moved, now); {
		case limit == 0: // somebody has set a deadline meanwhile
			m, err = p.out.Write(b[n:])
			return n + m, err
		case now.Sub(moved) >= limit:
			return n, err
		}
	}
}

// wait sets when to look next, unless that is about to be anyway, and returns
// the limit.
func (p *patience) wait(moved, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	by := now.Add(p.limit / looks)
	if last := moved.Add(p.limit); last.Before(by) {
		by = last
	}
	if passed := !p.by.After(now); p.limit > 0 && (passed || by.Sub(p.by) > p.limit/looks/8) {
		p.by = by
		_ = p.out.SetWriteDeadline(by) // an error shows in the write
	}
	return p.limit
}
