package certs

import (
	"net/netip"
	"sync"
	"time"
)

// tries bounds how often one address may fail: a burst, then a few a minute.
// A secret of 256 bits needs no such bound; processors, disks and logs do.
type tries struct {
	mu     sync.Mutex
	failed map[netip.Prefix]bucket // guarded by mu; at most mostOrigins
	told   bucket                  // guarded by mu; of lines in the log, from all
}

const (
	triesBurst  = 10
	triesRefill = 6 * time.Second // for one more
	mostOrigins = 4096

	toldBurst  = 20
	toldRefill = time.Second
)

// A bucket empties itself with time: level things were put in at since.
type bucket struct {
	level float64
	since time.Time
}

func (b bucket) at(now time.Time, refill time.Duration) float64 {
	return max(0, b.level-max(0, now.Sub(b.since).Seconds())/refill.Seconds())
}

// allows says whether an address may try.
func (t *tries) allows(from netip.Prefix, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed[from].at(now, triesRefill) <= triesBurst-1
}

// charge counts a try that failed.
func (t *tries) charge(from netip.Prefix, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = make(map[netip.Prefix]bucket)
	}
	if _, known := t.failed[from]; !known && len(t.failed) >= mostOrigins {
		t.makeRoom(now)
	}
	t.failed[from] = bucket{min(triesBurst, t.failed[from].at(now, triesRefill)+1), now}
}

// makeRoom forgets who has been quiet; where nobody has, those who failed
// least: they have most of their tries left anyway.
func (t *tries) makeRoom(now time.Time) {
	for most := 0.0; len(t.failed) >= mostOrigins; most++ {
		for from, b := range t.failed {
			if b.at(now, triesRefill) <= most {
				delete(t.failed, from)
			}
		}
	}
}

// tell says whether one more refusal may be written down.
func (t *tries) tell(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	level := t.told.at(now, toldRefill)
	if level >= toldBurst {
		return false
	}
	t.told = bucket{level + 1, now}
	return true
}
