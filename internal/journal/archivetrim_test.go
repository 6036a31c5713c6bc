package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// inspectModel is Inspect of a disk of the model.
func inspectModel(t *testing.T, d *disk) *Archive {
	t.Helper()
	a := &Archive{fs: d, noIndex: map[*segment]bool{}}
	if err := a.inspect(); err != nil {
		t.Fatal(err)
	}
	return a
}

// whenOpened does something when the n-th file is opened from now on, counted
// from 0. It returns how to find out whether that happened.
func (d *disk) whenOpened(n int, do func()) (happened func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	opens := 0
	d.failing = func(op, _ string) error {
		if op == "open" {
			if opens == n {
				do()
			}
			opens++
		}
		return nil
	}
	return func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.failing = nil
		return opens > n
	}
}

// erase deletes files; for holders of mu.
func (d *disk) erase(names ...string) {
	for _, name := range names {
		d.dirs["."].change(func(m map[string]*inode) { delete(m, path.Base(name)) })
	}
}

// TestTrimmingIsNoDamage: whenever the oldest segments are deleted while an
// Archive is made, verified and read, it tells of no damage, and what it tells
// of is in one piece.
func TestTrimmingIsNoDamage(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 30)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	left := d.crash() // the last segment is live
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for what, look := range map[string]func(*Archive) error{
		"inspect": (*Archive).inspect,
		"verify": func(a *Archive) error {
			return a.Verify(func(segment string, problem error) { t.Errorf("%s: %v", segment, problem) })
		},
	} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, half deleted %t", what, half), func(t *testing.T) {
				for n, more := 0, true; more; n++ {
					d := left.crash()
					a := &Archive{fs: d, noIndex: map[*segment]bool{}}
					files := packetFiles(d)
					happened := d.whenOpened(n, func() {
						d.erase(files[0], indexOf(files[0]), files[1], indexOf(files[1]), files[2])
						if !half {
							d.erase(indexOf(files[2]))
						}
					})
					if err := look(a); err != nil {
						t.Fatal(err)
					}
					more = happened()
					sound(t, a, next)
				}
			})
		}
	}
}

// sound says whether an Archive tells of one piece of a log, without damage.
func sound(t *testing.T, a *Archive, next wire.PacketNumber) {
	t.Helper()
	for i, s := range a.Segments() {
		if len(s.Damaged) > 0 || s.Missing > 0 {
			t.Errorf("segment %d, %s, is damaged: %v, %d missing", i, s.Name, s.Damaged, s.Missing)
		}
		if i > 0 && s.First != a.info[i-1].Next {
			t.Errorf("segment %d begins at %d, the one before ends at %d", i, s.First, a.info[i-1].Next)
		}
		if i == len(a.info)-1 && s.Next != next {
			t.Errorf("the last segment ends at %d, want %d", s.Next, next)
		}
	}
}

// TestAReaderOfAnArchiveTellsNoTrimmingForDamage: a segment whose packets are
// deleted, and whose index is about to be, is passed over.
func TestAReaderOfAnArchiveTellsNoTrimmingForDamage(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 30)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	a := inspectModel(t, d)
	files := packetFiles(d)
	happened := d.whenOpened(2, func() { // the first segment is open
		d.erase(files[0], indexOf(files[0]), files[1], indexOf(files[1]), files[2])
	})
	all, _ := readAll(t, a.Read())
	if !happened() || len(all) == 0 || len(all) == 30 {
		t.Fatalf("%d entries", len(all))
	}
	for _, e := range all {
		if e.Kind != Batch {
			t.Errorf("entry %+v: nothing is damaged", e)
		}
	}
}

// TestASegmentThatIsBeingMadeIsNoDamage: its packets are there before its index,
// and its index before what it says; and the next moment all of it is.
func TestASegmentThatIsBeingMadeIsNoDamage(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 9) // three to a segment
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files := packetFiles(d)
	last := files[len(files)-1]
	index, packets := d.bytes(indexOf(last)), d.bytes(last)
	for what, unmake := range map[string]func(d *disk){
		"no index":          func(d *disk) { d.set(last, packets[:pcap.FileHeaderLen]); d.erase(indexOf(last)) },
		"an empty index":    func(d *disk) { d.set(last, packets[:pcap.FileHeaderLen]); d.set(indexOf(last), nil) },
		"no packets either": func(d *disk) { d.set(last, nil); d.set(indexOf(last), nil) },
	} {
		t.Run(what, func(t *testing.T) {
			now := d.crash()
			unmake(now)
			sound(t, inspectModel(t, now), next-30)
			opens := 0
			now.failing = func(op, name string) error {
				if op == "open" && name == last {
					opens++
					now.set(indexOf(last), index)
					now.set(last, packets)
				}
				return nil
			}
			sound(t, inspectModel(t, now), next)
			if opens == 0 {
				t.Error("it was not looked at")
			}
		})
	}
}

func TestAnArchiveThatCannotBeReadIsNotDamaged(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 9)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	a := inspectModel(t, d)
	d.failing = func(op, name string) error {
		if op == "open" {
			return fs.ErrPermission
		}
		return nil
	}
	tell := func(segment string, problem error) { t.Errorf("%s: %v", segment, problem) }
	if err := a.Verify(tell); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("verify says %v", err)
	}
	if err := a.inspect(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("inspect says %v", err)
	}
}

// TestDroppingIsNoDamage: a segment in which an Archive has seen damage, and
// which becomes gaps before it looks again, is complete and not damaged.
func TestDroppingIsNoDamage(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 30)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	oldest := packetFiles(d)[0]
	d.put(oldest, append([]byte{0}, d.bytes(oldest)[1:]...))
	damaged := d.crash()
	if gaps := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64).Gaps; len(gaps) == 0 {
		t.Fatal("nothing was dropped")
	}
	dropped := d.crash()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for n, more := 0, true; more; n++ {
		d := damaged.crash()
		happened := d.whenOpened(n, func() { d.dirs["."].now = dropped.dirs["."].now })
		s := inspectModel(t, d).Segments()[0]
		more = happened()
		if s.Packets == 0 && (s.Live || len(s.Damaged) > 0 || s.Lost[wire.CauseSpoolOverflow] == 0) {
			t.Errorf("dropped before file %d is opened: live %t, damaged %v, lost %v", n, s.Live, s.Damaged, s.Lost)
		}
	}
}
