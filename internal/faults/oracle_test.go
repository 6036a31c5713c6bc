//go:build faults

package faults

import (
	"slices"
	"testing"
	"time"
)

// TestLedgerTellsTruth: the judge of all other tests closes a ledger that is
// right, and none that is wrong.
func TestLedgerTellsTruth(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1_800_000_000, 123)
	nanos := func(counter int) int64 { return begin.Add(time.Duration(counter) * time.Second).UnixNano() }
	crash := ledgerGap{First: 8, Cause: "agent_crash", Earliest: nanos(7), Latest: nanos(10)}

	// Ten packets of an epoch, of which 3 and 4 overflowed; 8 and 9 died with the
	// agent; 10 to 13 are of another epoch.
	right := func() (*source, *ledger) {
		s := &source{sent: 14}
		l := &ledger{epochs: []ledgerEpoch{
			{Epoch: "a", Next: 8, Gaps: []ledgerGap{{First: 3, Count: 2, Cause: "spool_overflow"}, crash}},
			{Epoch: "b", Next: 4},
		}}
		for counter := range uint64(14) {
			at := begin.Add(time.Duration(counter) * time.Second)
			s.chunks = append(s.chunks, chunk{counter, at})
			if counter != 3 && counter != 4 && counter != 8 && counter != 9 {
				l.packets = append(l.packets, packet{counter, at, appendFrame(nil, counter, at)})
			}
		}
		return s, l
	}
	s, l := right()
	b, err := l.audit(s)
	if err != nil || b.kept != 10 || b.lost["spool_overflow"] != 2 || b.unknown["agent_crash"] != 1 || b.vanished != 2 {
		t.Errorf("what is right does not close: %v, %v", b, err)
	}
	for name, wrong := range map[string]func(*source, *ledger){
		"a packet is missing":            func(_ *source, l *ledger) { l.packets = slices.Delete(l.packets, 5, 6) },
		"the last packet is missing":     func(_ *source, l *ledger) { l.packets = l.packets[:9]; l.epochs[1].Next = 3 },
		"a packet comes twice":           func(_ *source, l *ledger) { l.packets = slices.Insert(l.packets, 5, l.packets[5]) },
		"two packets are exchanged":      func(_ *source, l *ledger) { l.packets[0], l.packets[1] = l.packets[1], l.packets[0] },
		"a byte is another":              func(_ *source, l *ledger) { l.packets[2].frame[60] ^= 1 },
		"a time is another":              func(_ *source, l *ledger) { l.packets[2].at = l.packets[2].at.Add(1) },
		"a gap is too short":             func(_ *source, l *ledger) { l.epochs[0].Gaps[0].Count = 1 },
		"a gap is too long":              func(_ *source, l *ledger) { l.epochs[0].Gaps[0].Count = 3 },
		"a gap is elsewhere":             func(_ *source, l *ledger) { l.epochs[0].Gaps[0].First = 2 },
		"a death is not on the record":   func(_ *source, l *ledger) { l.epochs[0].Gaps = l.epochs[0].Gaps[:1] },
		"a death was at another time":    func(_ *source, l *ledger) { l.epochs[0].Gaps[1].Latest = nanos(8) },
		"a death was at an unknown time": func(_ *source, l *ledger) { l.epochs[0].Gaps[1].Earliest = 0 },
		"more were handed over":          func(s *source, _ *ledger) { s.sent++ },
		"an epoch is missing":            func(_ *source, l *ledger) { l.epochs = l.epochs[:1] },
	} {
		s, l := right()
		if wrong(s, l); wrongly(l.audit(s)) {
			t.Errorf("%s, and the ledger closes all the same", name)
		}
	}
}

func wrongly(_ balance, err error) bool { return err == nil }
