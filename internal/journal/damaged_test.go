package journal

import (
	"log/slog"
	"strings"
	"testing"

	"poip/internal/poiptest"
	"poip/internal/wire"
)

// TestDamageIsCountedForAsLongAsItIsThere: what damage took is known from the
// moment it is found, over each time that the journal is opened, without
// reading it, until it is deleted. It is said once, with cause and count.
func TestDamageIsCountedForAsLongAsItIsThere(t *testing.T) {
	d := newDisk()
	said := new(poiptest.Log)
	o := Options{Segment: 6000, Damage: wire.CauseHistoryCorrupt, Log: slog.New(slog.NewTextHandler(said, nil))}
	j := openModel(t, d, o)
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 10)
	j.Gap(wire.Gap{First: next, Count: 7, Cause: wire.CauseKernelDrop}, 500) // is no damage
	next = write(j, next+7, 20)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	d.bytes(packetFiles(d)[0])[3000] ^= 1
	tail := packetFiles(d)
	d.bytes(tail[len(tail)-1])[200] ^= 1 // of the segment that is being written
	if n := j.Damaged(); n != 0 {
		t.Errorf("%d packets are damaged before anybody has looked", n)
	}
	readAll(t, j.ReadOrdinal(0))
	within(t, "both are counted", func() bool { return j.Damaged() == 20 })
	for _, n := range []int{20, 1} { // the second says that the first were confirmed
		next = write(j, next, n)
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	files := packetFiles(d)
	d.bytes(files[len(files)-3])[200] ^= 1
	killed := d.crash() // the seals vouch for all but the last one
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	last := files[len(files)-1]
	killed.bytes(last)[200] ^= 1
	killed.erase(files[3], indexOf(files[3])) // three batches
	for range 2 {
		j = openModel(t, killed, o)
		if n := j.Damaged(); n != 20+30+10 {
			t.Errorf("%d packets are damaged when the journal is opened, want 60", n)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(said.String(), "cause=history_corrupt packets=10"); n != 3 {
		t.Errorf("the loss of ten packets is said %d times, want 3:\n%s", n, said)
	}
	j = openModel(t, killed, o)
	defer j.Close()
	j.Keep(0, 0)
	within(t, "what was damaged is deleted", func() bool { j.Keep(0, 0); return j.Damaged() == 0 })
}
