package journal

import (
	"encoding/binary"
	"testing"
	"time"

	"poip/internal/wire"
)

// shortEpochs appends epochs of one packet each, from number from on.
func shortEpochs(j *Journal, from, n int) {
	for i := from; i < from+n; i++ {
		e := testEpoch(0)
		binary.BigEndian.PutUint64(e.ID[:], uint64(i)+1)
		j.Begin(e, 0)
		h, r := testBatch(0, 1, 8)
		j.Append(h, r, int64(i))
		j.End(false, int64(i))
	}
}

// TestKeepLeavesSoManySegments: of short epochs, which have a segment each, not
// more are kept than is sensible, however few bytes they are.
func TestKeepLeavesSoManySegments(t *testing.T) {
	const more = 100
	d := newDisk()
	j := openModel(t, d, Options{NoSync: true, Delay: time.Hour})
	defer j.Close()
	shortEpochs(j, 0, manySegments+more)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	const bytes = 1 << 30
	if got, want := j.Size(), int64((manySegments+more)*leastBytes); got != want {
		t.Errorf("they take %d bytes, want %d", got, want)
	}
	if got := j.Excess(bytes); got != more*leastBytes {
		t.Errorf("%d bytes too many, want %d", got, more*leastBytes)
	}
	packets, freed := j.Keep(bytes, 0)
	if packets != more || freed != more*leastBytes {
		t.Errorf("%d packets went, and %d bytes, want %d and %d", packets, freed, more, more*leastBytes)
	}
	if j.Oldest() != more || j.Packets() != manySegments || j.Excess(bytes) != 0 {
		t.Errorf("%d packets are left, from %d on", j.Packets(), j.Oldest())
	}
	within(t, "the files are deleted", func() bool { return len(d.names(".")) == 2*manySegments })
	if all, _ := readAll(t, j.ReadOrdinal(0)); len(all) != 2*manySegments || all[0].Ordinal != more {
		t.Errorf("read %d entries", len(all))
	}
	if packets, _ := j.Keep(bytes, 0); packets != 0 {
		t.Errorf("%d more went", packets)
	}
}

// TestALargeJournalMayHaveMoreSegments: the bound is for short ones.
func TestALargeJournalMayHaveMoreSegments(t *testing.T) {
	j := openModel(t, newDisk(), Options{Segment: 64 << 20})
	defer j.Close()
	for bytes, want := range map[int64]int{4 << 20: manySegments, 1 << 40: 2 << 14, 1 << 50: 2 << 24} {
		if got := j.mostSegments(bytes); got != want {
			t.Errorf("%d segments in %d bytes, want %d", got, bytes, want)
		}
	}
}

// TestEpochsWithoutPacketsArePending: they take memory while they wait, and the
// disk afterwards.
func TestEpochsWithoutPacketsArePending(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Delay: time.Hour})
	defer j.Close()
	d.mu.Lock()
	d.failing = func(op, _ string) error {
		if op == "sync" {
			return errSync
		}
		return nil
	}
	d.mu.Unlock()
	const n = 20
	for i := range byte(n) {
		j.Begin(testEpoch(i+1), 0)
		j.Gap(wire.Gap{Cause: wire.CauseAgentCrash}, 1)
		j.End(false, 1)
	}
	if j.Sync() == nil {
		t.Fatal("the disk confirms")
	}
	if got, want := j.Pending(), int64(n*(leastBytes+2*entryLen)); got != want {
		t.Errorf("%d bytes are pending, want %d", got, want)
	}
	d.mu.Lock()
	d.failing = nil
	d.mu.Unlock()
	within(t, "all is durable", func() bool { return j.Sync() == nil })
	if got := j.Pending(); got != 0 {
		t.Errorf("%d bytes are pending, and all is durable", got)
	}
}
