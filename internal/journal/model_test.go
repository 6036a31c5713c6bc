package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"poip/internal/wire"
)

// told is an entry of the model: what was appended, in order.
type told struct {
	kind    Kind
	epoch   wire.Epoch
	first   wire.PacketNumber
	next    wire.PacketNumber
	cause   wire.Cause
	ordinal uint64
	arrival int64
	final   bool
	records []byte
	serial  uint64 // of the journal that was open then; 0: durable since long ago
	dropped bool   // became a gap: spool_overflow
	doomed  bool   // was deleted while it became one, which a crash may undo by half
}

func (l told) String() string {
	return fmt.Sprintf("kind %d of %x, %d to %d, cause %d, ordinal %d, arrival %d, serial %d, dropped %t", l.kind, l.epoch[0], l.first, l.next, l.cause, l.ordinal, l.arrival, l.serial, l.dropped)
}

// machine is a journal and the simplest thing that does the same.
type machine struct {
	d     *disk
	o     Options
	j     *Journal
	rng   *rand.Rand
	log   []told
	most  int // of log, that may be deleted
	epoch byte
	next  wire.PacketNumber
	clock int64
	ended bool
	begun bool
}

// String shows everything, for a failure.
func (m *machine) String() string {
	m.j.mu.Lock()
	defer m.j.mu.Unlock()
	out := fmt.Sprintf("\ntrimmed %+v, renew %t\n", m.j.trimmed, m.j.renew)
	for _, s := range m.j.segments {
		out += fmt.Sprintf("segment %s: %+v\n", s.name, s.sum)
	}
	for i, e := range m.log {
		out += fmt.Sprintf("%d: %v\n", i, e)
	}
	return out
}

func newMachine(t *rapid.T) *machine {
	m := &machine{d: newDisk()}
	m.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	m.o = Options{FS: m.d, Segment: int64(rapid.IntRange(3000, 20000).Draw(t, "segment")), Damage: wire.CauseSpoolCorrupt}
	if rapid.Bool().Draw(t, "encrypted") {
		m.o.Key = testKey(1)
	}
	m.o.Delay, m.o.Batch = time.Hour, int64(rapid.IntRange(1000, 20000).Draw(t, "batch"))
	m.open(t)
	return m
}

func (m *machine) open(t *rapid.T) {
	m.o.FS = m.d
	j, err := Open("model", m.o)
	if err != nil {
		t.Fatal(err)
	}
	m.j, m.begun = j, false
}

func (m *machine) begin(t *rapid.T) {
	if m.epoch == 0 || m.ended || rapid.IntRange(0, 3).Draw(t, "another epoch") == 0 {
		m.epoch++
		m.next = wire.PacketNumber(rapid.IntRange(0, 3).Draw(t, "first"))
		m.ended = false
	}
	m.j.Begin(testEpoch(m.epoch), m.next)
	m.begun = true
}

func (m *machine) ready(t *rapid.T) {
	if !m.begun || m.ended {
		m.begin(t)
	}
	m.clock += int64(rapid.IntRange(0, 3).Draw(t, "later"))
}

func (m *machine) remember(e told) {
	e.epoch, e.first, e.arrival, e.serial = testEpoch(m.epoch).ID, m.next, m.clock, m.j.Appended().Entries
	m.next = e.next
	m.log = append(m.log, e)
}

func (m *machine) Batch(t *rapid.T) {
	m.ready(t)
	n := rapid.IntRange(1, 9).Draw(t, "packets")
	ordinal := m.j.Next()
	h, r := testBatch(m.next, n, rapid.IntRange(8, 400).Draw(t, "length"))
	m.j.Append(h, r, m.clock)
	m.remember(told{kind: Batch, next: m.next + wire.PacketNumber(n), ordinal: ordinal, records: bytes.Clone(r)})
}

func (m *machine) Gap(t *rapid.T) {
	m.ready(t)
	n := rapid.IntRange(0, 9).Draw(t, "lost")
	if i := len(m.log) - 1; i >= 0 && m.log[i].kind == Gap && m.log[i].first == m.next {
		n++ // a gap of unknown count is told once for each number
	}
	cause := rapid.SampledFrom([]wire.Cause{wire.CauseKernelDrop, wire.CauseCaptureRestart}).Draw(t, "cause")
	m.j.Gap(wire.Gap{First: m.next, Count: uint64(n), Cause: cause}, m.clock)
	m.remember(told{kind: Gap, next: m.next + wire.PacketNumber(n), ordinal: m.j.Next(), cause: cause})
}

func (m *machine) Skip(t *rapid.T) { // what the spool was never given
	m.ready(t)
	m.next += wire.PacketNumber(rapid.IntRange(1, 50).Draw(t, "skipped"))
	m.j.Begin(testEpoch(m.epoch), m.next)
}

func (m *machine) End(t *rapid.T) {
	m.ready(t)
	m.j.End(m.epoch%2 == 0, m.clock)
	m.remember(told{kind: End, next: m.next, ordinal: m.j.Next(), final: m.epoch%2 == 0})
	m.ended = true
}

func (m *machine) Sync(t *rapid.T) {
	if err := m.j.Sync(); err != nil {
		t.Fatal(err)
	}
	if m.j.Durable() != m.j.Appended() || m.j.Pending() != 0 {
		t.Fatalf("after Sync durable is %+v, appended %+v", m.j.Durable(), m.j.Appended())
	}
}

// settle waits until the committer has nothing to do.
func (m *machine) settle(t *rapid.T) {
	m.Sync(t)
	m.j.mu.Lock()
	defer m.j.mu.Unlock()
	for m.j.renew || m.j.busy || len(m.j.doomed) > 0 {
		m.j.moved.Wait()
	}
}

func (m *machine) Reopen(t *rapid.T) {
	if err := m.j.Close(); err != nil {
		t.Fatal(err)
	}
	next := m.j.Next()
	if rapid.IntRange(0, 3).Draw(t, "encrypted from now on") == 0 {
		m.o.Key = testKey(1)
	}
	m.open(t)
	if m.j.Next() != next {
		t.Fatalf("the next ordinal was %d, and is %d after reopening", next, m.j.Next())
	}
	for i := range m.log {
		m.log[i].serial = 0
	}
}

// Kill leaves all that was written.
func (m *machine) Kill(t *rapid.T) {
	m.afterwards(t, func() *disk { return m.d.crash() })
}

// PowerCut leaves what was synced and some of the rest.
func (m *machine) PowerCut(t *rapid.T) {
	m.afterwards(t, func() *disk {
		m.d.mu.Lock()
		defer m.d.mu.Unlock()
		return m.d.cut(m.rng, m.rng.IntN(3) > 0)
	})
}

func (m *machine) afterwards(t *rapid.T, look func() *disk) {
	durable := m.j.Durable().Entries
	after := look()
	m.j.Close()
	m.d = after
	m.open(t)
	m.accept(t, durable)
}

// accept takes over what a crash has left: nothing durable may be missing.
func (m *machine) accept(t *rapid.T, durable uint64) {
	m.Sync(t)
	all, records := readAll(t, m.j.ReadOrdinal(0))
	keep := 0
	for i, e := range m.log {
		if e.serial <= durable {
			keep = i + 1
		}
	}
	whole, most := m.log, m.most
	err := error(nil)
	for end := len(whole); ; end-- {
		m.log, m.most = whole[:end], min(most, end)
		if err = m.compare(all, records); err == nil || end == keep {
			break
		}
	}
	if err != nil {
		t.Fatalf("after a crash: %v\n%v\nfiles %q\nread %+v", err, m, m.d.names("."), all)
	}
	if len(all) == 0 { // all that may be gone is; what was not durable may be told again
		m.log, m.most = nil, 0
	}
	for i := range m.log {
		m.log[i].serial = 0
	}
	epochs := m.j.Epochs()
	m.begun = false
	if len(epochs) > 0 {
		e := epochs[len(epochs)-1]
		m.epoch, m.next, m.ended = e.ID[0], e.Next, e.Ended
		return
	}
	m.ended = true // the next one is another
}

func (m *machine) TrimBelow(t *rapid.T) {
	if len(m.log) == 0 {
		return
	}
	at := rapid.IntRange(0, len(m.log)-1).Draw(t, "trimmed")
	e := m.log[at]
	m.j.TrimBelow(e.epoch, e.next)
	for i, other := range m.log {
		if other.epoch == e.epoch && (other.next > e.next || other.first == e.next) {
			m.most = max(m.most, i)
			return
		}
		if i > at && other.epoch != e.epoch {
			m.most = max(m.most, i)
			return
		}
	}
	m.most = len(m.log)
}

func (m *machine) Keep(t *rapid.T) {
	bytes := int64(rapid.IntRange(0, 60000).Draw(t, "bytes"))
	since := m.clock - int64(rapid.IntRange(0, 200).Draw(t, "age"))
	m.j.mu.Lock() // or the committer may open a segment meanwhile
	defer m.j.mu.Unlock()
	size, segments := m.j.sizeOf(), len(m.j.segments)
	from := uint64(math.MaxUint64)
	if rapid.Bool().Draw(t, "a reader needs some") {
		from = uint64(rapid.IntRange(0, int(m.j.tip.ordinal)).Draw(t, "from"))
	}
	before := slices.Clone(m.j.segments)
	packets, freed, held := m.j.keep(bytes, since, from)
	for _, s := range before {
		if s.gone && s.sum.ordinal > from {
			t.Fatalf("%v went, and packets from %d on were to be kept", s.name, from)
		}
	}
	if over := m.j.sizeOf() > bytes; held > 0 && (!over || held <= from || held != m.j.segments[0].sum.ordinal) {
		t.Fatalf("of %d bytes %d are left from %d on, held up to %d", size, m.j.sizeOf(), from, held)
	}
	if now := m.j.sizeOf(); now != size-freed {
		t.Fatalf("size was %d, %d bytes were freed, and it is %d", size, freed, now)
	}
	if packets > 0 && len(m.j.segments) == segments {
		t.Fatalf("%d packets went, and no segment", packets)
	}
	if s := m.j.segments; len(s) > 1 && s[0].sum.ordinal <= from && (m.j.sizeOf() > bytes || s[0].sum.lastArrival < since) {
		t.Fatalf("%d segments were kept in %d bytes, the oldest of %d; wanted %d bytes since %d", len(s), m.j.sizeOf(), s[0].sum.lastArrival, bytes, since)
	}
	m.most = len(m.log)
}

func (m *machine) DropOldest(t *rapid.T) {
	if len(m.log) == 0 {
		return
	}
	m.settle(t)
	e := m.log[rapid.IntRange(0, len(m.log)-1).Draw(t, "from")]
	end := m.log[rapid.IntRange(0, len(m.log)-1).Draw(t, "to")].next
	gone := m.j.DropOldest(e.epoch, e.first, end)
	gaps, freed := gone.Gaps, gone.Bytes
	if len(gaps) == 0 {
		for i := range m.log[:m.most] {
			if l := &m.log[i]; freed > 0 && l.epoch == e.epoch && l.first >= e.first && l.next <= end {
				l.doomed = true
			}
		}
		return
	}
	if freed <= 0 && len(gaps) > 0 && m.o.Segment > 8000 {
		t.Logf("dropping freed %d bytes", freed)
	}
	if gaps[0].First < e.first {
		t.Fatalf("dropped from %d on; asked for %d", gaps[0].First, e.first)
	}
	from, to := gaps[0].First, gaps[len(gaps)-1].Next()
	if to > end {
		t.Fatalf("dropped up to %d; asked for what is before %d", to, end)
	}
	for i := range gaps[1:] {
		if gaps[i].Next() != gaps[i+1].First {
			t.Fatalf("gaps have a hole: %+v", gaps)
		}
	}
	for i := range m.log {
		if l := &m.log[i]; l.epoch == e.epoch && l.kind == Batch && l.first >= from && l.next <= to {
			l.dropped = true
		}
	}
}

func (m *machine) Check(t *rapid.T) {
	m.settle(t)
	if err := m.compare(readAll(t, m.j.ReadOrdinal(0))); err != nil {
		t.Fatal(err, m)
	}
}

// ReadFrom reads from the middle and compares with what is read from the
// beginning.
func (m *machine) ReadFrom(t *rapid.T) {
	m.settle(t)
	all, _ := readAll(t, m.j.ReadOrdinal(0))
	if len(all) == 0 {
		return
	}
	e := all[rapid.IntRange(0, len(all)-1).Draw(t, "entry")]
	ordinal := e.Ordinal + uint64(rapid.IntRange(0, int(max(e.Count, 1))-1).Draw(t, "inside"))
	first, err := m.first(m.j.ReadOrdinal(ordinal))
	if e.Kind == Batch && (err != nil || first.Kind == Batch && first.First != e.First || first.Kind != Batch && first.Ordinal != ordinal) {
		t.Fatalf("from ordinal %d read %+v (%v), want %+v", ordinal, first, err, e)
	}
	first, err = m.first(m.j.ReadNumber(e.Epoch.ID, e.First))
	if e.Kind == Batch && (err != nil || first.Next() < e.First || first.First > e.First) {
		t.Fatalf("from number %d read %+v (%v), want %+v", e.First, first, err, e)
	}
	want := m.j.Next()
	for _, other := range all {
		if other.Arrival >= e.Arrival {
			want = other.Ordinal
			break
		}
	}
	if got := m.j.SeekArrival(e.Arrival); got != want {
		t.Fatalf("what arrived from %d on begins at ordinal %d, want %d", e.Arrival, got, want)
	}
}

func (m *machine) first(r *Reader) (Entry, error) {
	defer r.Close()
	c, err := r.Next(1)
	if errors.Is(err, io.EOF) {
		return Entry{}, err
	}
	return c.Entries[0], nil
}

func TestJournalDoesWhatASimpleModelDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer func() { m.j.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"batch":       m.Batch,
			"batch again": m.Batch,
			"and again":   m.Batch,
			"gap":         m.Gap,
			"skip":        m.Skip,
			"end":         m.End,
			"sync":        m.Sync,
			"reopen":      m.Reopen,
			"kill":        m.Kill,
			"power cut":   m.PowerCut,
			"trim":        m.TrimBelow,
			"keep":        m.Keep,
			"drop":        m.DropOldest,
			"read":        m.ReadFrom,
			"check":       m.Check,
		})
		m.Check(t)
	})
}
