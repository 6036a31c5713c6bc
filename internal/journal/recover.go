package journal

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// recover finds out what the folder holds, mends what is damaged, and has the
// disk confirm what a crash may have left unconfirmed.
func (j *Journal) recover() error {
	l, err := list(j.fs)
	if err != nil {
		return err
	}
	if err := j.checkKey(l.segments); err != nil {
		return err
	}
	for _, name := range l.drafts {
		j.fs.Remove(name)
	}
	j.finishDeleting(&l)
	p := place{}
	for i, f := range l.segments {
		x := &examination{fs: j.fs, key: j.o.Key, damage: j.o.Damage, found: f, before: p}
		x.limitBy(l.segments[i+1:])
		if x.examine(); x.impossible != nil {
			return x.impossible
		}
		j.committer.seq = f.name.seq
		last := i == len(l.segments)-1
		if last && x.saysNothing() && i > 0 {
			j.discard(x)
			break
		}
		if last && x.unmade() {
			x.problems = nil // made anew it says how far the log had got before
		}
		s, err := j.restore(x)
		if err != nil {
			return err
		}
		if last && x.vouched {
			j.giveBack(s)
		}
		s.lead(&p)
		j.segments = append(j.segments, s)
		p = s.place()
	}
	p.serial = 0
	j.tip, j.written, j.durable = p, p, p
	j.kept = listKept(j.fs)
	if !j.o.NoSync {
		return j.fs.SyncDir(".")
	}
	return nil
}

// saysNothing: no entry can be believed, and either the header of the index can
// not be read or there is no pcap file, as of a segment that was being made when
// the power failed. That its name leaves numbers out may have been on purpose.
func (x *examination) saysNothing() bool {
	return len(x.entries) == 0 && (x.missing || x.reindex && x.header.created == 0)
}

// discard deletes what is there of such a segment, or puts it into quarantine
// if it may have been more: nothing says whether the disk had confirmed the last
// round that the index tells of.
func (j *Journal) discard(x *examination) {
	keep := !x.unmade()
	if keep {
		j.log.Warn("segment cannot be read at all; if it was confirmed, packets are lost", "segment", x.found.name.String(), "bytes", x.size)
	}
	for _, g := range x.found.generations {
		setAside(j.fs, x.found.name.packets(g), keep)
	}
	setAside(j.fs, x.found.name.index(), keep)
}

// checkKey fails if the key does not open one of the segments. That is known
// before anything in the folder is changed.
func (j *Journal) checkKey(all []*found) error {
	for _, f := range all {
		if !f.name.encrypted {
			continue
		}
		x := examination{fs: j.fs, key: j.o.Key, found: f}
		x.open()
		x.unlock()
		x.close()
		if errors.Is(x.impossible, ErrKey) {
			return x.impossible
		}
	}
	return nil
}

// finishDeleting deletes what is left of segments at the beginning of the log.
func (j *Journal) finishDeleting(l *listing) {
	for l.halfDeleted(j.fs) {
		j.fs.Remove(l.segments[0].name.index())
		l.segments = l.segments[1:]
	}
}

// lead notes what is missing between the end of the log so far and s.
func (s *segment) lead(p *place) {
	s.from = s.header.first
	if p.epoch != nil && p.epoch.ID == s.name.epoch && s.header.flags&flagJump == 0 {
		s.from = min(s.from, p.next)
	}
}

// place is where the log stands after the segment.
func (s *segment) place() place {
	p := place{
		epoch:   &s.header.epoch,
		next:    s.sum.next,
		ordinal: s.sum.ordinal,
		arrival: s.sum.lastArrival,
		latest:  s.header.latest,
		ending:  s.sum.ending,
	}
	if s.sum.packets > 0 && (p.latest == 0 || s.sum.latest > p.latest) {
		p.latest = s.sum.latest
	}
	return p
}

// restore makes of a finding what the journal goes on with.
func (j *Journal) restore(x *examination) (*segment, error) {
	s := &segment{
		header:     x.header,
		name:       x.found.name,
		seed:       x.found.name.seed(),
		began:      time.Now(),
		generation: x.header.generation,
		noPackets:  x.header.flags&flagNoPackets != 0,
		complete:   true,
		sealed:     x.vouched,
		sum:        x.sum,
	}
	j.tidy(x)
	if x.vouched {
		return s, nil
	}
	for _, problem := range x.problems {
		j.log.Error("segment is damaged", "segment", s.name.String(), "problem", problem)
	}
	if n := s.lost(); len(x.problems) > 0 {
		j.log.Error("packets are lost to damage", "segment", s.name.String(), "cause", j.o.Damage.String(), "packets", n)
	}
	if x.torn {
		j.log.Info("segment is cut to what is whole", "segment", s.name.String(), "next", uint64(s.sum.next))
	}
	if !x.reindex && !x.repack {
		err := j.conclude(s, x)
		if err == nil {
			return s, nil
		}
		j.log.Warn("segment cannot be concluded; copying it", "segment", s.name.String(), "err", err)
		x.repack = true
	}
	return s, j.anew(s, x)
}

// tidy deals with pcap files of other generations than the index's.
func (j *Journal) tidy(x *examination) {
	for _, g := range x.found.generations {
		switch none := x.header.flags&flagNoPackets != 0; {
		case g == x.header.generation && !none:
		case g < x.header.generation && !none:
			setAside(j.fs, x.found.name.packets(g), true)
		default:
			setAside(j.fs, x.found.name.packets(g), false)
		}
	}
}

// conclude ends a segment that was being written when the journal was left:
// what is not whole is cut off, the rest is confirmed and sealed.
func (j *Journal) conclude(s *segment, x *examination) error {
	index, err := j.fs.OpenFile(s.name.index(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer index.Close()
	if err := index.Truncate(headerLen + int64(x.intact)*entryLen); err != nil {
		return err
	}
	for i := x.intact; i < len(x.entries); i++ {
		var b [entryLen]byte
		x.entries[i].put(b[:], s.seed)
		if _, err := index.WriteAt(b[:], headerLen+int64(i)*entryLen); err != nil {
			return err
		}
	}
	if !s.noPackets {
		if err := j.cutPackets(s); err != nil {
			return err
		}
	}
	if !j.o.NoSync {
		if err := index.Sync(); err != nil {
			return err
		}
	}
	err = writeSeal(index, s.name, &s.sum, j.o.NoSync)
	if err != nil { // as where a segment is rolled: all of it is confirmed, and there may be no room for more
		j.log.Warn("segment is left without its seal", "segment", s.name.String(), "err", err)
	}
	s.sealed = err == nil
	return nil
}

func (j *Journal) cutPackets(s *segment) error {
	f, err := j.fs.OpenFile(s.name.packets(s.generation), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(s.sum.size); err != nil {
		return err
	}
	if j.o.NoSync {
		return nil
	}
	return f.Sync()
}

// giveBack gives back what was reserved for a segment, if its writer was killed
// between the seal and the end. If that fails it costs space.
func (j *Journal) giveBack(s *segment) {
	f, err := j.fs.OpenFile(s.name.packets(s.generation), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() == s.sum.size && hasRoomBehind(info) {
		f.Truncate(s.sum.size)
	}
}

// anew makes another generation of a segment from what was found in it, or
// another index.
func (j *Journal) anew(s *segment, x *examination) error {
	m := &remake{
		fs:         j.fs,
		noSync:     j.o.NoSync,
		old:        x.header,
		header:     x.header,
		entries:    x.entries,
		sum:        x.sum,
		repack:     x.repack,
		quarantine: len(x.problems) > 0,
	}
	if x.repack {
		m.header.generation++
		for _, g := range x.found.generations {
			m.header.generation = max(m.header.generation, g+1)
		}
		m.header.flags &^= flagNoPackets
	} else if !s.noPackets {
		if err := j.cutPackets(s); err != nil {
			return fmt.Errorf("make segment %s anew: %w", s.name, err)
		}
	}
	if err := m.make(); err != nil {
		return fmt.Errorf("make segment %s anew: %w", s.name, err)
	}
	s.header, s.generation, s.sum, s.sealed = m.header, m.header.generation, m.sum, true
	s.noPackets = m.header.flags&flagNoPackets != 0
	return nil
}

// suspect has a segment examined in which a Reader saw damage.
func (j *Journal) suspect(s *segment, problem error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.suspect || s.gone {
		return
	}
	s.suspect = true
	j.log.Error("segment is damaged", "segment", s.name.String(), "problem", problem)
	if s == j.tail { // nothing more is to be written to it
		j.retire = true
		j.signal()
	}
	j.mend(s)
}

// mend starts what makes a damaged segment anew, if it is complete. For holders
// of mu.
func (j *Journal) mend(s *segment) {
	if !s.suspect || !s.complete || j.closing {
		return
	}
	j.menders.Add(1)
	go func() {
		defer j.menders.Done()
		j.rewriting.Lock()
		defer j.rewriting.Unlock()
		if err := j.remend(s); err != nil {
			j.log.Warn("damaged segment cannot be made anew", "segment", s.name.String(), "err", err)
		}
	}()
}

// remend examines a segment and makes it anew without what is damaged. The
// gaps in its place are those that Readers have been shown.
func (j *Journal) remend(s *segment) error {
	j.mu.Lock()
	x, gone, noPackets := j.contents(s), s.gone, s.noPackets
	j.mu.Unlock()
	if gone || noPackets {
		return nil
	}
	if x.examine(); x.impossible != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		s.suspect = false // the next Reader may see to it
		return x.impossible
	}
	if len(x.problems) == 0 {
		j.mu.Lock()
		defer j.mu.Unlock()
		s.suspect = false
		return nil
	}
	x.complete()
	return j.replace(s, x)
}

// replace puts what was found in a segment in its place, if it is still there.
func (j *Journal) replace(s *segment, x *examination) error {
	made := &segment{header: s.header, name: s.name}
	x.repack = true
	if err := j.anew(made, x); err != nil {
		return err
	}
	kept := listKept(j.fs)
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.gone { // deleted meanwhile
		j.doomed = append(j.doomed, s.name.packets(made.generation), s.name.index())
		j.signal()
		return nil
	}
	before := s.lost()
	s.adopt(made.generation, &made.sum)
	j.kept = kept
	j.log.Error("packets are lost to damage", "segment", s.name.String(), "cause", j.o.Damage.String(), "packets", s.lost()-min(before, s.lost()))
	return nil
}
