package audit

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Refusals of one kind: a burst of lines, then one in so long.
const (
	burst    = 20
	every    = 10 * time.Second
	maxKinds = 1024 // of which one is for all that do not fit
)

// A kind is what is counted together. Strangers have no names, and are all of
// one kind, so that they cannot drown those who have.
type kind struct {
	event            Event
	analyst, sensor  string
	listener, reason string // reason: a word, not a text of the peer's
}

// limiter counts refusals by kind.
type limiter struct {
	mu    sync.Mutex
	kinds map[kind]*allowance // guarded by mu
}

// allowance is how many lines a kind may still have.
type allowance struct {
	tokens   float64
	filled   time.Time
	withheld uint64
	since    time.Time // of the first that was withheld
}

// Refuse adds a line about a refusal, or counts it when there were many of its
// kind: same event, word and listener, and same analyst or sensor where the
// peer has proven to be one.
func (l *Log) Refuse(word string, e Entry) {
	if l == nil {
		return
	}
	if e.Reason == "" {
		e.Reason = word
	}
	k := kind{e.Event, e.Analyst, e.Sensor, e.Listener, word}
	if withheld, ok := l.limiter.allow(k, time.Now()); ok {
		e.Count = withheld
		l.Write(e)
	}
}

// allow says whether a refusal gets a line, and how many before it had none.
func (l *limiter) allow(k kind, now time.Time) (withheld uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(k, now)
	a.tokens = min(burst, a.tokens+now.Sub(a.filled).Seconds()/every.Seconds())
	a.filled = now
	if a.tokens < 1 {
		if a.withheld == 0 {
			a.since = now
		}
		a.withheld++
		return 0, false
	}
	a.tokens--
	withheld, a.withheld = a.withheld, 0
	return withheld, true
}

// of finds the kind's allowance; for holders of mu.
func (l *limiter) of(k kind, now time.Time) *allowance {
	if l.kinds == nil {
		l.kinds = make(map[kind]*allowance)
	}
	if a := l.kinds[k]; a != nil {
		return a
	}
	if len(l.kinds) >= maxKinds-1 {
		maps.DeleteFunc(l.kinds, func(_ kind, a *allowance) bool {
			return a.withheld == 0 && a.tokens+now.Sub(a.filled).Seconds()/every.Seconds() >= burst
		})
	}
	if len(l.kinds) >= maxKinds-1 {
		k = kind{event: Withheld}
		if a := l.kinds[k]; a != nil {
			return a
		}
	}
	a := &allowance{tokens: burst, filled: now}
	l.kinds[k] = a
	return a
}

// summary is a line for each kind of which something was withheld for a
// minute; with all, or for however long. Then it counts from zero.
func (l *limiter) summary(now time.Time, all bool) (out []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, a := range l.kinds {
		if a.withheld == 0 || !all && now.Sub(a.since) < summarize {
			continue
		}
		since := a.since.UTC()
		out = append(out, Entry{Time: now, Event: Withheld, Of: k.event, Analyst: k.analyst, Sensor: k.sensor,
			Listener: k.listener, Reason: k.reason, Count: a.withheld, From: &since})
		a.withheld = 0
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Of, b.Of), cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Analyst+a.Sensor, b.Analyst+b.Sensor), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
