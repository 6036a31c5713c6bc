package journal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"poip/internal/wire"
)

// A story is written to a journal while the power may fail at any moment. The
// packets of one epoch are numbered from 0 on; some are lost.
type story struct {
	t     *testing.T
	rng   *rand.Rand
	j     *Journal
	next  wire.PacketNumber
	clock int64
}

// tell appends something.
func (s *story) tell() {
	s.clock++
	switch s.rng.IntN(12) {
	case 0:
		n := 1 + s.rng.IntN(5)
		s.j.Gap(wire.Gap{First: s.next, Count: uint64(n), Cause: wire.CauseKernelDrop}, s.clock)
		s.next += wire.PacketNumber(n)
	default:
		n := 1 + s.rng.IntN(8)
		h, r := testBatch(s.next, n, s.rng.IntN(300))
		s.j.Append(h, r, s.clock)
		s.next += wire.PacketNumber(n)
	}
}

// runUntilPowerCut returns the disk as it is after the power failed before
// some operation, and how far the journal had said that the log was durable.
// Every second journal is encrypted.
func runUntilPowerCut(t *testing.T, seed uint64, noSync bool) (after *disk, durable wire.PacketNumber) {
	rng := rand.New(rand.NewPCG(seed, 1))
	cuts := rand.New(rand.NewPCG(seed, 2)) // used by the committer
	d := newDisk()
	ops, syncs, cutAt, failAt := 0, 0, rng.IntN(250), -1
	if rng.IntN(2) == 0 {
		failAt = rng.IntN(12)
	}
	var j *Journal
	d.failing = func(op, _ string) error {
		if ops++; ops == cutAt {
			after = d.cut(cuts, cuts.IntN(4) > 0)
			if j != nil {
				durable = j.Durable().Next
			}
		}
		if op == "sync" || op == "syncdir" {
			if syncs++; syncs == failAt {
				return errSync
			}
		}
		return nil
	}
	opened, err := Open("model", Options{FS: d, Segment: 8 << 10, NoSync: noSync, Key: keyOf(seed)})
	if err == nil { // else the first sync was the one that failed
		d.mu.Lock()
		j = opened
		d.mu.Unlock()
		s := &story{t: t, rng: rng, j: j}
		j.Begin(testEpoch(1), 0)
		every := 1 + rng.IntN(40)
		for range 20 + rng.IntN(120) {
			s.tell()
			if rng.IntN(every) == 0 {
				j.Sync() // if it fails, the mark says how far things are
			}
		}
		j.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if after == nil {
		after = d.cut(cuts, true)
		if j != nil {
			durable = j.Durable().Next
		}
	}
	return after, durable
}

func keyOf(seed uint64) *Key {
	if seed%2 == 0 {
		return nil
	}
	return testKey(1)
}

// survivors opens what is left after a power cut and checks that it is the
// beginning of the story.
func survivors(d *disk, seed uint64) (wire.PacketNumber, error) {
	j, err := Open("model", Options{FS: d, Segment: 8 << 10, Key: keyOf(seed)})
	if err != nil {
		return 0, err
	}
	defer j.Close()
	next, r := wire.PacketNumber(0), j.ReadOrdinal(0)
	defer r.Close()
	for {
		c, err := r.Next(4000)
		if err != nil {
			return next, nil
		}
		for i := range c.Entries {
			e := &c.Entries[i]
			if e.First != next {
				return next, fmt.Errorf("entry at %d, want %d", e.First, next)
			}
			if e.Kind == Gap && e.Cause != wire.CauseKernelDrop {
				return next, fmt.Errorf("gap of %d at %d: %s; nothing was damaged", e.Lost, e.First, e.Cause)
			}
			next = e.Next()
		}
	}
}

func TestNothingDurableIsLostWhenThePowerFails(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 100
	}
	for seed := range seeds {
		d, durable := runUntilPowerCut(t, seed, false)
		got, err := survivors(d, seed)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got < durable {
			t.Fatalf("seed %d: after the power cut the log ends at %d; it was durable up to %d", seed, got, durable)
		}
	}
}

// The control: without fsync the same test must find that packets were lost.
func TestWithoutSyncThePowerCutTestFails(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		d, durable := runUntilPowerCut(t, seed, true)
		if got, err := survivors(d, seed); err != nil || got < durable {
			lost++
		}
	}
	if lost < 25 {
		t.Errorf("only %d of 50 power cuts lost anything although nothing was synced: the model proves nothing", lost)
	}
}

// A power cut may leave of a segment no more than the names of its files, or
// their length. That
// packets are missing before it, nobody said: they may have been left out on
// purpose. It fails without discard in recover.go.
func TestASegmentThatWasNotMadeSaysNothing(t *testing.T) {
	for what, packets := range map[string][]byte{"names": nil, "room": make([]byte, 5000)} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			j := mustOpen(t, dir, Options{})
			j.Begin(testEpoch(1), 0)
			next := write(j, 0, 3)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			later := name{seq: 2, epoch: testEpoch(1).ID, first: next + 23}
			for file, content := range map[string][]byte{later.packets(0): packets, later.index(): nil} {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			j = mustOpen(t, dir, Options{})
			defer j.Close()
			if m := j.Appended(); m.Next != next {
				t.Errorf("the log ends at %d, want %d", m.Next, next)
			}
			j.Begin(testEpoch(1), next)
			end := write(j, next, 1)
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
			wholeFrom(t, j, 0, end)
		})
	}
}
