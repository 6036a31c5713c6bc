package transport

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// headStart is how long an address is tried alone before the next one is
// tried beside it (RFC 8305, 5).
const headStart = 250 * time.Millisecond

// result is how one dial of a race ended.
type result[C any] struct {
	conn C
	err  error
}

// race dials the addresses, each a head start after the one before or as soon
// as that has failed, and returns the first connection. Others go to discard.
func race[C any](ctx context.Context, addrs []netip.AddrPort, dial func(context.Context, netip.AddrPort) (C, error), discard func(C)) (won C, err error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result[C], len(addrs))
	running := 0
	defer func() {
		cancel()
		giveAway(results, running, discard)
	}()
	turn := time.NewTicker(headStart)
	defer turn.Stop()
	var errs failures
	for waiting := addrs; len(errs) < len(addrs); {
		if len(waiting) > 0 {
			addr := waiting[0]
			waiting = waiting[1:]
			running++
			go func() {
				conn, err := dial(ctx, addr)
				results <- result[C]{conn, err}
			}()
			turn.Reset(headStart)
		}
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
		case <-turn.C:
		}
	}
	return won, errs
}

// giveAway waits for the dials of a race that are still running.
func giveAway[C any](results <-chan result[C], running int, discard func(C)) {
	for range running {
		if r := <-results; r.err == nil {
			discard(r.conn)
		}
	}
}

// failures are errors in one line.
type failures []error

func (f failures) Error() string {
	if len(f) == 0 {
		return "the name has no address"
	}
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
