package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"poip/internal/pcap"
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

	Bytes        int64 // packets and index, in whole blocks
	Earliest     int64 // packet times, nanoseconds since 1970
	Latest       int64
	FirstArrival int64
	LastArrival  int64
	Ended, Final bool
	Live         bool // not concluded: it is being written, or its writer died
	Damaged      []error

	segment *segment
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
	return a.survey(false, func(s *segment, x *examination, oldest bool) {
		if oldest {
			a.info, a.segments = nil, nil
		}
		a.info = append(a.info, describe(s, x, !s.sealed))
		s.sum.entries = max(x.readable, 1)
		a.segments = append(a.segments, s)
		a.noIndex[s] = !x.found.index
	})
}

// survey examines the segments, oldest first, and shows each. Where one has
// been deleted meanwhile the next is the oldest: all that was shown before is
// gone as well.
func (a *Archive) survey(whole bool, show func(s *segment, x *examination, oldest bool)) error {
	l, err := list(a.fs)
	if err != nil {
		return err
	}
	p := place{}
	for i, f := range l.segments {
		x := &examination{fs: a.fs, key: a.key, damage: wire.CauseHistoryCorrupt, found: f, before: p, whole: whole}
		x.limitBy(l.segments[i+1:])
		if !a.examine(x) {
			p = place{}
			continue
		}
		if x.impossible != nil {
			return x.impossible
		}
		if i == len(l.segments)-1 && x.unmade() {
			break
		}
		s := &segment{
			header:     x.header,
			name:       x.found.name,
			seed:       x.found.name.seed(),
			generation: x.header.generation,
			noPackets:  x.header.flags&flagNoPackets != 0,
			complete:   true,
			sealed:     x.vouched,
			sum:        x.sum,
		}
		s.lead(&p)
		oldest := p.epoch == nil
		p = s.place()
		show(s, x, oldest)
	}
	return nil
}

// examine examines a segment, again if it was made, or made anew, meanwhile.
// It returns false if it has been deleted.
func (a *Archive) examine(x *examination) bool {
	for {
		x.finding = finding{}
		x.examine()
		if x.vouched { // the gaps are wanted as well
			x.retrace()
		}
		if len(x.problems) == 0 {
			return true
		}
		now, there := a.lookup(x.found.name, x.found.index)
		if !there {
			return false
		}
		was := x.found
		if x.found = now; was.index == now.index && slices.Equal(was.generations, now.generations) && !x.outdated() {
			return true
		}
	}
}

// lookup finds what there is of a segment now. It returns false if that has been
// deleted, or is being deleted: packets go before their index, and the oldest
// segments first.
func (a *Archive) lookup(n name, index bool) (*found, bool) {
	l, err := list(a.fs)
	if err != nil {
		return &found{name: n, index: index}, true
	}
	i := slices.IndexFunc(l.segments, func(f *found) bool { return f.name.String() == n.String() })
	if i < 0 || index && !l.segments[i].index {
		return nil, false
	}
	return l.segments[i], i > 0 || !l.halfDeleted(a.fs)
}

// unmade says whether this is what is there of a segment while it is being made:
// the last one may be so at any time.
func (x *examination) unmade() bool {
	return x.saysNothing() && !x.torn && x.size <= pcap.FileHeaderLen
}

// outdated says whether the index is another than the one that was examined, or
// there was none that can be read, which has no time.
func (x *examination) outdated() bool {
	now := examination{fs: x.fs, found: x.found}
	now.open()
	defer now.close()
	return now.header.generation != x.header.generation || now.header.created != x.header.created
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
		segment:      s,
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
func (a *Archive) Read() *Reader { return a.read(func() []*segment { return a.segments }) }

// ReadSegment returns a Reader over what was there of one segment. It comes to
// an end before if the segment is deleted.
func (a *Archive) ReadSegment(d *SegmentInfo) *Reader {
	return a.read(func() []*segment {
		if d.segment.gone {
			return nil
		}
		return []*segment{d.segment}
	})
}

// read returns a Reader over segments; these are asked for with mu held.
func (a *Archive) read(segments func() []*segment) *Reader {
	return &Reader{src: source{
		fs:     a.fs,
		key:    a.key,
		damage: wire.CauseHistoryCorrupt,
		find: func(at *position) (view, bool) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return find(segments(), at)
		},
		look:    a.look,
		suspect: func(*segment, error) {},
	}}
}

// look finds out whether a segment has been deleted, or made anew, since then.
func (a *Archive) look(s *segment) view {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, there := a.lookup(s.name, !a.noIndex[s]); there {
		a.follow(s)
		return s.look(false)
	}
	s.gone = true
	a.segments = slices.DeleteFunc(slices.Clone(a.segments), func(other *segment) bool { return other == s })
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
	err := a.survey(true, func(s *segment, x *examination, _ bool) {
		if s.from < s.header.first {
			tell(s.name.String(), fmt.Errorf("packets %d to %d are missing before it", s.from, s.header.first-1))
		}
		for _, problem := range x.problems {
			tell(s.name.String(), problem)
		}
	})
	if err != nil {
		return fmt.Errorf("verify journal: %w", err)
	}
	return nil
}
