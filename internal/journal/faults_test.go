package journal

import (
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"poip/internal/wire"
)

func openModel(t testing.TB, d *disk, o Options) *Journal {
	t.Helper()
	o.FS = d
	return mustOpen(t, "model", o)
}

// write appends n batches of ten packets each.
func write(j *Journal, from wire.PacketNumber, n int) wire.PacketNumber {
	for range n {
		h, r := testBatch(from, 10, 100)
		j.Append(h, r, int64(from))
		from += 10
	}
	return from
}

// wholeFrom checks that exactly the numbers from one to another are there.
func wholeFrom(t testing.TB, j *Journal, from, to wire.PacketNumber) {
	t.Helper()
	all, _ := readAll(t, j.ReadOrdinal(0))
	next := from
	for _, e := range all {
		if e.Kind != Batch || e.First != next {
			t.Fatalf("entry %+v, want a batch at %d", e, next)
		}
		next = e.Next()
	}
	if next != to {
		t.Fatalf("the log ends at %d, want %d", next, to)
	}
}

func TestAFailedSyncIsNotRepeatedOnThatFile(t *testing.T) {
	for _, op := range []string{"sync", "syncdir"} {
		t.Run(op, func(t *testing.T) {
			d := newDisk()
			j := openModel(t, d, Options{})
			j.Begin(testEpoch(1), 0)
			next := wire.PacketNumber(0)
			if op == "sync" { // else it is the first one of a segment that fails
				next = write(j, 0, 3)
				if err := j.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			durable := j.Durable()
			failed := map[string]bool{}
			armed := true
			d.mu.Lock()
			d.failing = func(o, name string) error {
				if o == op && armed {
					armed = false
					failed[name] = true
					if got := j.Durable(); got != durable {
						t.Errorf("durable is %+v while nothing more was confirmed; want %+v", got, durable)
					}
					return errSync
				}
				if o == "sync" && failed[name] {
					t.Errorf("%s was synced again", name)
				}
				return nil
			}
			d.mu.Unlock()
			next = write(j, next, 3)
			if err := j.Sync(); err != nil && !errors.Is(err, errSync) {
				t.Fatal(err)
			}
			within(t, "written again", func() bool { return j.Durable().Next == next && j.Trouble() == nil })
			d.mu.Lock()
			if armed {
				t.Error("nothing failed")
			}
			after := d.cut(nil, false)
			d.mu.Unlock()
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			again := openModel(t, after, Options{})
			wholeFrom(t, again, 0, next)
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAFullDiskIsWaitedFor(t *testing.T) {
	d := newDisk()
	d.space = 12000
	var told atomic.Int64
	j := openModel(t, d, Options{Segment: 6000, Committed: func() { told.Add(1) }})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 30)
	err := j.Sync()
	if !IsFull(err) || !IsFull(j.Trouble()) {
		t.Fatalf("on a full disk Sync says %v, and the trouble is %v", err, j.Trouble())
	}
	if durable := j.Durable().Next; durable == 0 || durable >= next {
		t.Errorf("durable is %d of %d; what had room should be, and no more", durable, next)
	}
	before := told.Load()
	d.mu.Lock()
	d.space += 100000
	d.mu.Unlock()
	within(t, "the rest is durable", func() bool { return j.Durable().Next == next && j.Trouble() == nil })
	within(t, "the owner is told", func() bool { return told.Load() > before })
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again := openModel(t, d, Options{})
	defer again.Close()
	wholeFrom(t, again, 0, next)
}

func TestFreedSpaceIsUsedAtOnce(t *testing.T) {
	d := newDisk()
	d.space = 30000
	j := openModel(t, d, Options{Segment: 6000})
	defer j.Close()
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 60)
	if err := j.Sync(); !IsFull(err) {
		t.Fatal(err)
	}
	within(t, "all is durable", func() bool {
		j.TrimBelow(testEpoch(1).ID, j.Durable().Next)
		return j.Durable().Next == next
	})
}

func TestAJournalIsOpenedOnAFullDisk(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 10)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	killed := d.crash()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, room := range []int64{0, 10, 1000} { // for nothing, for a torn seal, for a seal
		killed.space = room
		j = openModel(t, killed, Options{})
		wholeFrom(t, j, 0, next)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOverflowWorksOnAFullDisk(t *testing.T) {
	d := newDisk()
	d.space = 40000
	j := openModel(t, d, Options{Segment: 8000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 60)
	if err := j.Sync(); !IsFull(err) {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.space = 0
	d.mu.Unlock()
	lost := uint64(0)
	within(t, "all is durable", func() bool {
		gaps := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64).Gaps
		for _, g := range gaps {
			if g.Cause == wire.CauseSpoolOverflow {
				lost += g.Count
			}
		}
		return j.Sync() == nil
	})
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		j = openModel(t, d, Options{})
		all, _ := readAll(t, j.ReadOrdinal(0))
		if at, gone := extent(t, all); at != next || gone != lost || lost == 0 {
			t.Errorf("the log ends at %d with %d lost, want %d and %d", at, gone, next, lost)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileThatCannotBeWrittenIsLeft(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 2)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	first := packetFiles(d)[0]
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "write" && name == first {
			return syscall.EIO
		}
		return nil
	}
	d.mu.Unlock()
	next = write(j, next, 2)
	within(t, "written elsewhere", func() bool { return j.Durable().Next == next })
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(packetFiles(d)); n != 2 {
		t.Errorf("there are %d segments, want 2", n)
	}
}

func TestACallerOfSyncHearsOfTrouble(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 1)
	d.mu.Lock()
	d.failing = func(op, _ string) error {
		if op == "sync" || op == "write" || op == "open" {
			return syscall.EIO
		}
		return nil
	}
	d.mu.Unlock()
	if err := j.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync says %v", err)
	}
	if j.Durable().Next != 0 || j.Pending() == 0 {
		t.Errorf("durable is %+v, %d bytes are pending", j.Durable(), j.Pending())
	}
	if err := j.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Close says %v", err)
	}
}

func TestReadersFollowWhileSegmentsComeAndGo(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 20000, Delay: time.Millisecond})
	syncs := atomic.Int64{}
	d.mu.Lock()
	d.failing = func(op, _ string) error {
		if op == "sync" && syncs.Add(1)%17 == 0 {
			return errSync
		}
		return nil
	}
	d.mu.Unlock()
	j.Begin(testEpoch(1), 0)
	const all = 20000
	stop := make(chan struct{})
	done := make(chan string, 3)
	read := func(r *Reader, trimmed bool) {
		defer r.Close()
		next, problems := wire.PacketNumber(0), ""
		for next < all && problems == "" {
			c, err := r.Next(5000)
			if err != nil {
				select {
				case <-stop:
					problems = "the end did not come"
				case <-time.After(time.Millisecond):
				}
				continue
			}
			for _, e := range c.Entries {
				if e.Kind != Batch || e.First < next || e.First > next && !trimmed || e.Ordinal != uint64(e.First) {
					problems = "an entry is out of order, missing or damaged"
				}
				next = e.Next()
			}
		}
		done <- problems
	}
	go read(j.ReadOrdinal(0), true)
	go read(j.ReadNumber(testEpoch(1).ID, 0), true)
	go read(j.ReadOrdinal(0), true)
	for next := wire.PacketNumber(0); next < all; {
		next = write(j, next, 20)
		if next%1000 == 0 {
			j.Sync()
			j.TrimBelow(testEpoch(1).ID, next-min(next, 8000))
		}
	}
	within(t, "all is durable", func() bool { return j.Sync() == nil })
	timeout := time.AfterFunc(2*time.Minute, func() { close(stop) })
	defer timeout.Stop()
	for range 3 {
		if problem := <-done; problem != "" {
			t.Error(problem)
		}
	}
	d.mu.Lock()
	d.failing = nil
	d.mu.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range d.names(".") {
		if strings.HasSuffix(n, draftSuffix) {
			t.Errorf("%s was left", n)
		}
	}
}

func TestWantOfDescriptorsIsNoDamage(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 30)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	before := strings.Join(d.names("."), " ")
	opens := 0
	d.failing = func(op, _ string) error {
		if op == "open" {
			if opens++; opens > 3 {
				return syscall.EMFILE
			}
		}
		return nil
	}
	if j, err := Open("model", Options{FS: d}); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("opened with too few descriptors: %v", err)
		j.Close()
	}
	d.failing = nil
	if now := strings.Join(d.names("."), " "); now != before {
		t.Errorf("the folder holds %s, before %s", now, before)
	}
	j = openModel(t, d, Options{Segment: 6000})
	defer j.Close()
	wholeFrom(t, j, 0, next)
	d.mu.Lock()
	d.failing = func(op, _ string) error {
		if op == "open" {
			return syscall.EMFILE
		}
		return nil
	}
	d.mu.Unlock()
	if _, err := j.ReadOrdinal(0).Next(1000); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("a Reader without descriptors says %v", err)
	}
	d.mu.Lock()
	d.failing = nil
	d.mu.Unlock()
	wholeFrom(t, j, 0, next)
}

// TestTheOnlySegmentIsNoReasonToHang: the disk is full of the one segment that
// there is, and the oldest has to go.
func TestTheOnlySegmentIsNoReasonToHang(t *testing.T) {
	for what, left := range map[string]int64{"what a torn write left is room enough": -1, "others take that as well": 0} {
		t.Run(what, func(t *testing.T) {
			d := newDisk()
			d.space = 30000
			j := openModel(t, d, Options{})
			j.Begin(testEpoch(1), 0)
			next := write(j, 0, 60)
			if err := j.Sync(); !IsFull(err) {
				t.Fatal(err)
			}
			d.mu.Lock()
			if left >= 0 {
				d.space = left
			}
			d.mu.Unlock()
			gone := uint64(0)
			within(t, "all is durable", func() bool {
				if j.Trouble() != nil {
					packets, _ := j.Keep(j.Size()-6000, 0)
					gone += packets
				}
				return j.Durable().Next == next
			})
			if gone == 0 {
				t.Error("nothing had to go")
			}
			wholeFrom(t, j, wire.PacketNumber(gone), next)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			again := openModel(t, d, Options{})
			defer again.Close()
			wholeFrom(t, again, wire.PacketNumber(gone), next)
		})
	}
}

// TestAFullDiskKeepsNothingTorn: what a write that failed for lack of space has
// left behind is given back, and a segment that is sealed later ends where its
// seal says.
func TestAFullDiskKeepsNothingTorn(t *testing.T) {
	d := newDisk()
	d.space = 30000
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 60)
	if err := j.Sync(); !IsFull(err) {
		t.Fatal(err)
	}
	within(t, "the torn rest is gone", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		name := j.segments[0].name
		return int64(len(d.bytes(name.packets(0)))) == j.segments[0].sum.size &&
			int64(len(d.bytes(name.index()))) == headerLen+j.segments[0].sum.entries*entryLen
	})
	d.mu.Lock()
	d.space = -1
	d.mu.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestAReaderOfWhatIsGivenUpGoesOnWhereItWas: entries that a Reader was about to
// read are gone, since the disk did not confirm them. Those before the place that
// it stands at are not returned on that account.
func TestAReaderOfWhatIsGivenUpGoesOnWhereItWas(t *testing.T) {
	j := openModel(t, newDisk(), Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	r := j.ReadNumber(testEpoch(1).ID, 10)
	find, before := r.src.find, true
	r.src.find = func(at *position) (view, bool) {
		v, found := find(at)
		if before { // the segment is given up
			v.sum.entries, before = v.sum.entries+3, false
		}
		return v, found
	}
	all, _ := readAll(t, r)
	if len(all) != 2 || all[0].First != 10 || all[1].First != 20 {
		t.Errorf("read %+v, want the batches from 10 on", all)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsAskedForMeanwhileIsNotForgotten: who wants the only segment to go
// says so while it is being ended for somebody else. If that were forgotten after
// the segment went, its index, which has to wait for another one, would keep the
// committer busy for ever.
func TestWhatIsAskedForMeanwhileIsNotForgotten(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	asked := false
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "sync" && !asked { // of the seal
			asked = true
			j.Keep(0, 0)
		}
		return nil
	}
	d.mu.Unlock()
	if !j.Retire() {
		t.Fatal("the segment is still being written")
	}
	j.mu.Lock()
	if !j.renew && len(j.segments) < 2 {
		t.Error("no other segment is to be begun")
	}
	j.mu.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if !asked {
		t.Error("the segment was not sealed")
	}
}

// TestWithoutASegmentAnotherIsBegun: the only segment has gone, for the disk was
// full of it, and the disk does not confirm the empty one in its place. Another is
// begun, and the committer, which has files to delete until then, comes to rest.
func TestWithoutASegmentAnotherIsBegun(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	failed := false
	d.mu.Lock()
	d.space = 0
	d.failing = func(op, name string) error {
		if op == "syncdir" && !failed && j.Oldest() == uint64(next) {
			for file := range d.dirs["."].now {
				if strings.HasPrefix(file, "0000000000000001") && !strings.HasSuffix(file, indexSuffix) {
					return nil // of files that were deleted
				}
			}
			j.mu.Lock()
			failed = j.tail != nil
			j.mu.Unlock()
			if failed {
				d.space += 4096 // for one that can be confirmed
				return errSync
			}
		}
		return nil
	}
	d.mu.Unlock()
	within(t, "it has failed", func() bool {
		j.Keep(0, 0)
		d.mu.Lock()
		defer d.mu.Unlock()
		return failed
	})
	for end := time.Now().Add(10 * time.Second); len(j.Epochs()) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if len(j.Epochs()) == 0 {
		t.Error("no other segment was begun: nothing says how far the log has got")
	}
	rounds := func() uint64 {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.rounds
	}
	before := rounds()
	time.Sleep(20 * time.Millisecond)
	if n := rounds() - before; n > 5 {
		t.Errorf("%d rounds in 20 ms with nothing to do", n)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadersKnowFirstWhatIsGivenUp: by the time that the files end at what the
// disk has confirmed, no Reader expects more of them. It would take it for damage.
func TestReadersKnowFirstWhatIsGivenUp(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	failed, cut := false, false
	d.mu.Lock()
	d.failing = func(op, _ string) error {
		switch {
		case op == "truncate" && failed && !cut:
			cut = true
			j.mu.Lock()
			defer j.mu.Unlock()
			if n := j.segments[0].sum.entries; n != 3 || j.written != j.durable {
				t.Errorf("%d entries are there for Readers when 3 are left", n)
			}
		case op == "sync" && !failed:
			failed = true
			return errSync
		}
		return nil
	}
	d.mu.Unlock()
	next = write(j, next, 3)
	within(t, "written again", func() bool { return j.Sync() == nil })
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if !cut {
		t.Error("nothing was given up")
	}
}
