package broker

import (
	"fmt"
	"math"
	"time"

	"poip/internal/config"
)

// This file is where in a stream a reader begins.

// A start is what a listener's key start says: the newest packet, unless one
// of the others is set.
type start struct {
	oldest bool          // the oldest packet that there is
	back   time.Duration // before the reader came; 0: not said
	at     time.Time     // zero: not said
}

// parseStart reads "live", "oldest", a duration or a time of RFC 3339.
func parseStart(s string) (start, error) {
	switch s {
	case "live":
		return start{}, nil
	case "oldest":
		return start{oldest: true}, nil
	}
	var back config.Duration
	if err := back.UnmarshalText([]byte(s)); err == nil && back > 0 {
		return start{back: time.Duration(back)}, nil
	}
	if at, err := time.Parse(time.RFC3339, s); err == nil && at.Unix() > 0 && at.Year() < 2262 { // as nanoseconds go
		return start{at: at}, nil
	}
	return start{}, fmt.Errorf("key start: %q: want live, oldest, how far back as in 15m, or a time as in 2026-11-23T10:00:00Z", s)
}

// needsHistory says whether the start is a time, which only history knows.
func (s start) needsHistory() bool { return s.back > 0 || !s.at.IsZero() }

// live says whether a reader gets what comes, and nothing that was there.
func (s start) live() bool { return !s.oldest && !s.needsHistory() }

// arrival is the stamp from which on batches are wanted; see arrivals.
func (s start) arrival(now time.Time) uint64 {
	at := s.at
	if s.back > 0 {
		at = now.Add(-s.back)
	}
	return uint64(max(at.UnixNano(), 0))
}

// An outset is where in a ring, and in the history below it, a reader begins:
// an ordinal, or one of these.
type outset uint64

const (
	atOldest outset = 0 // in the ring
	atTail   outset = math.MaxUint64
)

// outsets are where a reader begins in each of the streams that it meets.
type outsets struct {
	live bool
	at   map[*stream]outset // in streams that have a history
}

// of is for holders of Broker.mu.
func (o outsets) of(st *stream) outset {
	at, ok := o.at[st]
	switch {
	case ok:
		return at
	case o.live:
		return atTail
	}
	return outset(st.ring.begin) // the stream is newer than the reader
}
