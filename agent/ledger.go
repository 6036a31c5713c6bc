package agent

import "poip/internal/wire"

// A ledger counts packets. captured = acknowledged + lost + those that are
// held; what a queue holds is counted apart from it.
type ledger struct {
	captured     uint64 // packets with a number, the lost ones included
	acknowledged uint64 // of these, those in a relay's care
	sent         uint64 // put on the wire, repetitions included
	empty        uint64 // packets without captured bytes, which have no number
	lost         [causes]uint64
	unknown      [causes]uint64 // losses of unknown count
	recovered    uint64         // of the captured: found in the spool, from before the agent began
}

// causes is the size of a table with a cell for each cause, 0 for the unknown.
const causes = 8

func cell(c wire.Cause) int {
	if int(c) < causes {
		return int(c)
	}
	return 0
}

func (l *ledger) lose(count uint64, c wire.Cause) { l.lost[cell(c)] += count }

func (l *ledger) allLost() uint64 {
	var n uint64
	for _, lost := range l.lost {
		n += lost
	}
	return n
}

// held is what is captured, and neither lost nor acknowledged.
func (l *ledger) held() uint64 { return l.captured - l.acknowledged - l.allLost() }

func (l *ledger) add(other ledger) {
	l.captured += other.captured
	l.acknowledged += other.acknowledged
	l.sent += other.sent
	l.empty += other.empty
	l.recovered += other.recovered
	for i := range causes {
		l.lost[i] += other.lost[i]
		l.unknown[i] += other.unknown[i]
	}
}
