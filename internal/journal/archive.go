package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"poip/internal/wire"
)

// An Archive is a journal to look at: nothing in its folder is changed, and
// whoever writes the journal may go on meanwhile.
type Archive struct {
	fs   FS
	key  *Key
	info []SegmentInfo

	mu       sync.Mutex
	segments []*segment
	noIndex  map[*segment]bool // there was none when the Archive was made: all is a gap
}

// SegmentInfo describes a segment.
type SegmentInfo struct {
	Name  string
	Epoch Epoch
	First wire.PacketNumber
	Next  wire.PacketNumber // after the last

	Packets uint64                // that are there
	Gaps    int                   // of known count
	Lost    map[wire.Cause]uint64 // packets in them
	Unknown int                   // gaps of unknown count
	Missing uint64                // of Lost: numbers before First that no segment has
	Losses  []wire.Gap            // all of these, in order

	Bytes        int64 // packets and index
	Earliest     int64 // packet times, nanoseconds since 1970
	Latest       int64
	FirstArrival int64
	LastArrival  int64
	Ended, Final bool
	Live         bool // not concluded: it is being written, or its writer died
	Damaged      []error
}

// Inspect looks at the journal in dir: at the indexes of all segments, and at
// the packets of those that are not concluded. The key decrypts them; it fails
// without the one that there has to be.
func Inspect(dir string, key *Key) (*Archive, error) {
	f, err := openRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("inspect journal: %w", err)
	}
	a := &Archive{fs: f, key: key, noIndex: map[*segment]bool{}}
	if err := a.inspect(); err != nil {
		return nil, errors.Join(fmt.Errorf("inspect journal: %w", err), f.Close())
	}
	return a, nil
}

// Close ends the Archive; its Readers have been closed before.
func (a *Archive) Close() error { return a.fs.Close() }

// Segments describes all segments, oldest first.
func (a *Archive) Segments() []SegmentInfo { return a.info }

func (a *Archive) inspect() error {
	l, err := list(a.fs)
	if err != nil {
		return err
	}
	p := place{}
	for i, f := range l.segments {
		x := &examination{fs: a.fs, key: a.key, damage: wire.CauseHistoryCorrupt, found: f, before: p}
		x.limitBy(l.segments[i+1:])
		if x.examine(); errors.Is(x.impossible, ErrKey) {
			return x.impossible
		}
		if len(x.problems) > 0 && a.changed(x) {
			continue
		}
		live := !x.vouched
		if x.vouched { // the gaps are wanted as well
			x.retrace()
		}
		s := &segment{
			header:     x.header,
			name:       x.found.name,
			seed:       x.found.name.seed(),
			generation: x.header.generation,
			noPackets:  x.header.flags&flagNoPackets != 0,
			complete:   true,
			sealed:     !live,
			sum:        x.sum,
		}
		s.lead(&p)
		p = s.place()
		a.info = append(a.info, describe(s, x, live))
		s.sum.entries = max(x.readable, 1)
		a.segments = append(a.segments, s)
		a.noIndex[s] = !x.found.index
	}
	return nil
}

// still says whether a segment's index is there, and was not replaced.
func (a *Archive) still(f *found) bool {
	_, err := a.fs.Lstat(f.name.index())
	return !f.index || !errors.Is(err, fs.ErrNotExist)
}

// retrace reads the entries of a segment whose seal vouches for it.
func (x *examination) retrace() {
	sum := x.sum
	again := &examination{fs: x.fs, damage: x.damage, found: x.found, before: x.before, whole: true, trusting: true}
	again.limit, again.limited = x.limit, x.limited
	again.examine()
	x.finding = again.finding
	x.sum, x.vouched = sum, true
	x.readable = max(x.readable, sum.entries)
}

func describe(s *segment, x *examination, live bool) SegmentInfo {
	d := SegmentInfo{
		Name:         s.name.String(),
		Epoch:        s.header.epoch,
		First:        s.header.first,
		Next:         s.sum.next,
		Packets:      s.sum.packets,
		Lost:         map[wire.Cause]uint64{},
		Bytes:        s.bytes(),
		Earliest:     s.sum.earliest,
		Latest:       s.sum.latest,
		FirstArrival: s.sum.firstArrival,
		LastArrival:  s.sum.lastArrival,
		Ended:        s.sum.ended,
		Final:        s.sum.final,
		Live:         live,
		Damaged:      x.problems,
	}
	if d.Missing = uint64(s.header.first - s.from); d.Missing > 0 {
		d.Gaps++
		d.Lost[x.damage] += d.Missing
		d.Losses = append(d.Losses, wire.Gap{First: s.from, Count: d.Missing, Cause: x.damage})
	}
	for i := range x.entries {
		e := &x.entries[i]
		if e.kind == Gap {
			d.Losses = append(d.Losses, e.gap())
		}
		switch {
		case e.kind == Gap && e.count == 0:
			d.Unknown++
		case e.kind == Gap:
			d.Gaps++
			d.Lost[e.cause] += e.count
		}
	}
	return d
}

// Read returns a Reader over all that was there when the Archive was made.
func (a *Archive) Read() *Reader {
	return &Reader{src: source{
		fs:     a.fs,
		key:    a.key,
		damage: wire.CauseHistoryCorrupt,
		find: func(at *position) (view, bool) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return find(a.segments, at)
		},
		look:    a.look,
		suspect: func(*segment, error) {},
	}}
}

// look finds out whether a segment has been deleted, or made anew, since then.
func (a *Archive) look(s *segment) view {
	_, err := a.fs.Lstat(s.name.index())
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.gone = errors.Is(err, fs.ErrNotExist) && !a.noIndex[s]; s.gone {
		for i, other := range a.segments {
			if other == s {
				a.segments = append(a.segments[:i:i], a.segments[i+1:]...)
				break
			}
		}
	} else {
		a.follow(s)
	}
	return s.look(false)
}

// follow takes over the generation that a segment has now; for holders of mu.
func (a *Archive) follow(s *segment) {
	x := &examination{fs: a.fs, damage: wire.CauseHistoryCorrupt, found: &found{name: s.name, index: true}, whole: true, trusting: true}
	x.open()
	x.close()
	if x.reindex || x.header.generation == s.generation {
		return
	}
	x.finding = finding{}
	x.examine()
	s.generation, s.noPackets = x.header.generation, x.header.flags&flagNoPackets != 0
	s.sum = x.sum
	s.sum.entries = max(x.readable, 1)
}

// Verify reads everything, and tells of each piece of damage. The error says
// that it could not.
func (a *Archive) Verify(tell func(segment string, problem error)) error {
	l, err := list(a.fs)
	if err != nil {
		return fmt.Errorf("verify journal: %w", err)
	}
	p := place{}
	for i, f := range l.segments {
		x := &examination{fs: a.fs, key: a.key, damage: wire.CauseHistoryCorrupt, found: f, before: p, whole: true}
		x.limitBy(l.segments[i+1:])
		if x.examine(); errors.Is(x.impossible, ErrKey) {
			return fmt.Errorf("verify journal: %w", x.impossible)
		}
		if len(x.problems) > 0 && a.changed(x) {
			continue
		}
		s := &segment{header: x.header, name: f.name, sum: x.sum}
		s.lead(&p)
		if s.from < s.header.first {
			tell(s.name.String(), fmt.Errorf("packets %d to %d are missing before it", s.from, s.header.first-1))
		}
		for _, problem := range x.problems {
			tell(s.name.String(), problem)
		}
		p = s.place()
	}
	return nil
}

// changed says whether a segment was deleted or made anew while it was read.
func (a *Archive) changed(x *examination) bool {
	if !a.still(x.found) {
		return true
	}
	now := examination{fs: a.fs, found: x.found}
	now.open()
	defer now.close()
	return now.header.generation != x.header.generation
}
