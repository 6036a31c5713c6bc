package journal

import (
	"math"
	"strings"
	"syscall"
	"testing"

	"poip/internal/wire"
)

func TestWhatCannotBeMarkedIsNotDropped(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 4000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 20)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "open" && strings.HasSuffix(name, draftSuffix) {
			return syscall.EROFS
		}
		return nil
	}
	d.mu.Unlock()
	size := j.Size()
	if d := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64); d.Gaps != nil || d.Packets != 0 || d.Bytes != 0 || j.Size() != size {
		t.Errorf("dropped %+v, %d of %d are left; nothing can be dropped", d, j.Size(), size)
	}
	wholeFrom(t, j, 0, next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDroppingSaysWhatItFrees(t *testing.T) {
	j := openModel(t, newDisk(), Options{Segment: 4000})
	j.Begin(testEpoch(1), 0)
	for n := wire.PacketNumber(0); n < 400; n += 2 { // two causes in turn: these gaps do not become one
		h, r := testBatch(n, 1, 60)
		j.Append(h, r, int64(n))
		j.Gap(wire.Gap{First: n + 1, Count: 1, Cause: wire.CauseKernelDrop}, int64(n))
	}
	j.Begin(testEpoch(2), 0)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	segments, packets := 0, uint64(0)
	for {
		size := j.Size()
		d := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64)
		if d.Gaps == nil {
			break
		}
		if segments++; d.Bytes <= 0 || d.Bytes != size-j.Size() {
			t.Errorf("segment %d: freed %d bytes, and says %d", segments, size-j.Size(), d.Bytes)
		}
		packets += d.Packets
	}
	if packets != 200 {
		t.Errorf("%d packets are said to be dropped, of 200", packets)
	}
	if segments < 5 {
		t.Errorf("%d segments are no proof", segments)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// A dropped segment is told by the one before it. Where its own files survive
// that, both have the gap of unknown count that it begins with.
func TestAGapIsToldOnceWhenADeletionDoesNotSurvive(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 1)
	j.Sync()
	j.Retire()
	j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64)
	j.Gap(wire.Gap{First: 10, Cause: wire.CauseCaptureRestart}, 10)
	write(j, 10, 1)
	j.Sync()
	j.Retire()
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "remove" && !strings.HasSuffix(name, draftSuffix) {
			return syscall.EIO
		}
		return nil
	}
	d.mu.Unlock()
	if dropped := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64); dropped.Packets != 10 {
		t.Fatalf("dropped %+v", dropped)
	}
	d = d.crash()
	j.Close()

	j = openModel(t, d, Options{})
	defer j.Close()
	for range 2 { // packets, and what becomes of them
		all, _ := readAll(t, j.ReadOrdinal(0))
		if len(all) != 3 || all[0].Next() != 10 || all[1].Cause != wire.CauseCaptureRestart || all[2].First != 10 || all[2].Next() != 20 {
			t.Errorf("read %+v; want a gap of 10, one of unknown count, and what was dropped, or its packets", all)
		}
		j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64)
	}
}

// Gaps of unknown count at one number are as many as there were.
func TestGapsOfUnknownCountStayTheirOwn(t *testing.T) {
	j := openModel(t, newDisk(), Options{})
	defer j.Close()
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 1)
	for i := range int64(2) {
		j.Gap(wire.Gap{First: next, Cause: wire.CauseCaptureRestart, Earliest: 100 + i, Latest: 200 + i}, 10+i)
	}
	write(j, next, 1)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	dropped := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64)
	all, _ := readAll(t, j.ReadOrdinal(0))
	if len(dropped.Gaps) != 4 || len(all) != 4 {
		t.Errorf("dropping told %d gaps, and %d are kept: %+v; want four", len(dropped.Gaps), len(all), all)
	}
}

// A segment that is deleted while it is being dropped was needed no more: none
// of its packets is lost, and it does not come back.
func TestWhatIsTrimmedMeanwhileIsNotDropped(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{})
	j.Begin(testEpoch(1), 0)
	write(j, 0, 2)
	j.Begin(testEpoch(2), 0)
	next := write(j, 0, 1)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	trimmed := false
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "open" && strings.HasSuffix(name, draftSuffix) && !trimmed {
			trimmed = true
			d.mu.Unlock()
			defer d.mu.Lock()
			j.TrimBelow(testEpoch(2).ID, 0)
			within(t, "the segment is deleted", func() bool { return len(d.names(".")) == 2 })
		}
		return nil
	}
	d.mu.Unlock()
	if dropped := j.DropOldest(testEpoch(1).ID, 0, math.MaxUint64); !trimmed || dropped.Gaps != nil || dropped.Packets != 0 || dropped.Bytes <= 0 {
		t.Errorf("dropped %+v", dropped)
	}
	within(t, "nothing is left of it", func() bool { return len(d.names(".")) == 2 })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = openModel(t, d, Options{})
	defer j.Close()
	if all, _ := readAll(t, j.ReadOrdinal(0)); len(all) != 1 || all[0].Epoch.ID != testEpoch(2).ID || all[0].Next() != next {
		t.Errorf("read %+v; want what was not trimmed", all)
	}
}
