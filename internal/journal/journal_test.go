package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatIsAppendedIsReadAgainAfterReopening(t *testing.T) {
	dir := t.TempDir()
	o := Options{Segment: 100 << 10}
	j := mustOpen(t, dir, o)
	j.Begin(testEpoch(1), 7)
	var want [][]byte
	n := wire.PacketNumber(7)
	for i := range 100 {
		h, r := testBatch(n, 10, 500)
		j.Append(h, r, int64(1000+i))
		want = append(want, r)
		n += 10
		if i == 50 {
			j.Gap(wire.Gap{First: n, Count: 5, Cause: wire.CauseKernelDrop, Earliest: 3, Latest: 4}, int64(1000+i))
			want = append(want, nil)
			n += 5
		}
	}
	j.End(true, 2000)
	want = append(want, nil)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := j.Next(); got != 1000 {
			t.Errorf("next ordinal is %d, want 1000", got)
		}
		all, records := readAll(t, j.ReadOrdinal(0))
		if len(all) != len(want) {
			t.Fatalf("read %d entries, want %d", len(all), len(want))
		}
		for i := range all {
			if !bytes.Equal(records[i], want[i]) {
				t.Fatalf("records of entry %d differ", i)
			}
		}
		if g := all[51]; g.Kind != Gap || g.Gap() != (wire.Gap{First: 517, Count: 5, Cause: wire.CauseKernelDrop, Earliest: 3, Latest: 4}) {
			t.Errorf("gap is %+v", g)
		}
		if e := all[len(all)-1]; e.Kind != End || !e.Final {
			t.Errorf("end is %+v", e)
		}
		epochs := j.Epochs()
		if len(epochs) != 1 || epochs[0].First != 7 || epochs[0].Next != n || !epochs[0].Ended || !epochs[0].Final || epochs[0].Epoch != testEpoch(1) || epochs[0].Packets != 1000 || epochs[0].LastArrival != 2000 {
			t.Errorf("epochs are %+v", epochs)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = mustOpen(t, dir, o)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADiscardedJournalLeavesWhatIsInQuarantine(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{Segment: 2000})
	for i := range 5 { // segments
		n := wire.PacketNumber(10 * i)
		j.Begin(testEpoch(1), n)
		h, r := testBatch(n, 10, 500)
		j.Append(h, r, 1)
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(dir, quarantine, "damaged")
	if err := os.Mkdir(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Discard(); err != nil {
		t.Fatal(err)
	}
	var names []string
	all, err := os.ReadDir(dir)
	for _, f := range all {
		names = append(names, f.Name())
	}
	if got := strings.Join(names, " "); err != nil || got != "lock "+quarantine {
		t.Errorf("left are %s, %v", got, err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

// TestTheEndOfAStreamDoesNotWait for others to share its sync.
func TestTheEndOfAStreamDoesNotWait(t *testing.T) {
	j := openModel(t, newDisk(), Options{Delay: time.Hour})
	defer j.Close()
	j.Begin(testEpoch(1), 0)
	next := appendLong(j, 0, 3, 1000)
	j.End(true, 1)
	within(t, "the end is durable", func() bool { return j.Durable().Entries == 5 })
	if n := j.Durable().Next; n != next {
		t.Errorf("durable up to %d; want %d", n, next)
	}
}
