package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"poip/internal/wire"
)

// shown is how the model looks like an entry that a Reader returned.
func (l *told) shown() (Kind, wire.Cause) {
	if l.dropped {
		return Gap, wire.CauseSpoolOverflow
	}
	return l.kind, l.cause
}

// revive has a doomed entry be the gap that was read in its place: its deletion
// did not survive.
func (m *machine) revive(l *told, e *Entry) {
	if l.doomed && l.kind == Batch && e.Kind == Gap && (e.Cause == wire.CauseSpoolOverflow || e.Cause == m.o.Damage) {
		l.kind, l.cause, l.dropped = Gap, e.Cause, false
	}
}

// match says whether what a Reader returned is the log from some entry on.
func (m *machine) match(all []Entry, records [][]byte, at int) (err error) {
	before := slices.Clone(m.log)
	defer func() {
		if err != nil {
			copy(m.log, before)
		}
	}()
	for i, e := range all {
		if at == len(m.log) {
			return fmt.Errorf("entry %+v is one too many", e)
		}
		l := &m.log[at]
		m.revive(l, &e)
		kind, cause := l.shown()
		if l.dropped && e.Kind == Batch { // the deletion did not survive
			l.dropped, kind, cause = false, Batch, 0
		}
		if e.Kind != kind || e.Epoch.ID != l.epoch || e.First != l.first || e.Cause != cause || e.Final != l.final || e.Kind == Batch && e.Arrival != l.arrival {
			return fmt.Errorf("entry %+v, want %v", e, *l)
		}
		if kind == Batch && !bytes.Equal(records[i], l.records) {
			return fmt.Errorf("records of %+v differ", e)
		}
		if e.Ordinal != l.ordinal {
			return fmt.Errorf("ordinal of %+v, want %d", e, l.ordinal)
		}
		for at++; e.Kind == Gap && e.Next() > l.next; at++ { // gaps may have been merged
			if at == len(m.log) {
				return fmt.Errorf("gap %+v is too long", e)
			}
			l = &m.log[at]
			m.revive(l, &e)
			if k, c := l.shown(); k != Gap || c != cause || l.epoch != e.Epoch.ID {
				return fmt.Errorf("gap %+v reaches over %v", e, *l)
			}
		}
		if e.Next() != l.next {
			return fmt.Errorf("entry %+v ends elsewhere than %v", e, *l)
		}
	}
	if at != len(m.log) {
		return fmt.Errorf("the log ends before %v", m.log[at])
	}
	return nil
}

// compare says whether what was read is the log, but for what may be deleted.
func (m *machine) compare(all []Entry, records [][]byte) error {
	if len(all) == 0 && m.most == len(m.log) {
		return nil
	}
	problems := []error{fmt.Errorf("%d entries read, %d told, of which %d may be gone", len(all), len(m.log), m.most)}
	for at := 0; at <= m.most && len(all) > 0; at++ {
		if at < len(m.log) && m.log[at].epoch == all[0].Epoch.ID && m.log[at].first == all[0].First {
			err := m.match(all, records, at)
			if err == nil {
				return nil
			}
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
