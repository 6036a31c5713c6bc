package agent

import (
	"testing"

	"poip/internal/wire"
)

// What was read back and not sent may have to leave memory once more.
func TestDamageThatIsReadTwiceIsCountedOnce(t *testing.T) {
	q := newQueue(newMemory(1), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	frame := q.buffers.get(batchSize)[:wire.BatchPrefixLen]
	q.append(ep, load{frame: frame, count: 10, earliest: 1, latest: 2}, nil)
	ep.head.entry, q.durable = 1, 1
	q.fix(ep, ep.head)
	ep.unspooled = nil
	for range 3 {
		q.evict() // the batch
		q.evict() // and the gap behind it
		if ep.disk == nil || ep.disk.count != 10 || ep.disk.next != nil {
			t.Fatalf("on disk only: %+v; want all ten", ep.disk)
		}
		batch := q.blank(0)
		batch.count, batch.entry, batch.fixed = 6, 1, true
		p := partly{at: 6, after: 10, found: []restored{{item: batch}}}
		p.missing(10)
		q.restore(ep, p.found, p.at, p.unknown)
		l := q.totals().ledger
		if lost := l.lost[wire.CauseSpoolCorrupt]; l.captured != 10 || lost != 4 || l.held() != 6 {
			t.Errorf("captured %d, lost %d, held %d; want 10, 4 and 6", l.captured, lost, l.held())
		}
	}
}
