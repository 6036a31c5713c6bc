package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// record writes batches of ten packets, and a gap now and then, to a journal on
// a model disk, and closes it.
func record(t testing.TB, d *disk, segment int64, key *Key, batches int) (want map[wire.PacketNumber][]byte, next wire.PacketNumber) {
	t.Helper()
	j, err := Open("model", Options{FS: d, Segment: segment, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	want = map[wire.PacketNumber][]byte{}
	j.Begin(testEpoch(1), 0)
	for i := range batches {
		h, r := testBatch(next, 10, 100)
		j.Append(h, r, int64(i))
		want[next] = bytes.Clone(r)
		next += 10
		if i%5 == 4 {
			j.Gap(wire.Gap{First: next, Count: 3, Cause: wire.CauseKernelDrop}, int64(i))
			next += 3
		}
		if i%7 == 6 { // so that there are confirmations in the middle
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return want, next
}

// covered reads everything and checks that each number is there once, its
// batch unchanged, or in a gap. It returns the numbers in gaps of the cause of
// damage, and where the log ends.
func covered(t testing.TB, j *Journal, want map[wire.PacketNumber][]byte) (damaged uint64, next wire.PacketNumber) {
	t.Helper()
	all, records := readAll(t, j.ReadOrdinal(0))
	for i, e := range all {
		if e.First != next && i > 0 {
			t.Fatalf("entry %d is at %d, want %d", i, e.First, next)
		}
		switch {
		case e.Kind == Batch && !bytes.Equal(records[i], want[e.First]):
			t.Fatalf("batch at %d is not what was written", e.First)
		case e.Kind == Gap && e.Cause == wire.CauseHistoryCorrupt:
			damaged += e.Lost
		}
		next = e.Next()
	}
	return damaged, next
}

func packetFiles(d *disk) (names []string) {
	for _, n := range d.names(".") {
		if strings.HasSuffix(n, packetSuffix) || strings.HasSuffix(n, encryptedSuffix) {
			names = append(names, n)
		}
	}
	return names
}

func indexOf(packets string) string {
	return strings.TrimSuffix(packets, filepath.Ext(packets)) + indexSuffix
}

func TestDamageInTheMiddleBecomesAGapOfExactSize(t *testing.T) {
	bothWays(t, damageInTheMiddle)
}

func damageInTheMiddle(t *testing.T, key *Key) {
	for _, what := range []string{"packets of the last segment", "packets of an older one", "an entry of the index", "the header of the index", "the header of the pcap file"} {
		t.Run(what, func(t *testing.T) {
			d := newDisk()
			want, next := record(t, d, 20<<10, key, 40)
			files := packetFiles(d)
			lost := uint64(10)
			switch what {
			case "packets of the last segment":
				d.bytes(files[len(files)-1])[500] ^= 4
			case "packets of an older one":
				d.bytes(files[0])[pcap.FileHeaderLen+5000] ^= 4
			case "an entry of the index":
				d.bytes(indexOf(files[1]))[headerLen+2*entryLen+20] ^= 1
			case "the header of the index":
				d.bytes(indexOf(files[1]))[100] ^= 1
				lost = 0
			case "the header of the pcap file":
				d.bytes(files[1])[20] ^= 1
				lost = 0
			}
			for range 3 { // the second time, what was seen has been made anew
				j, err := Open("model", Options{FS: d, Segment: 20 << 10, Key: key})
				if err != nil {
					t.Fatal(err)
				}
				if damaged, end := covered(t, j, want); damaged != lost || end != next {
					t.Errorf("%d packets are in gaps and the log ends at %d, want %d and %d", damaged, end, lost, next)
				}
				j.menders.Wait()
				if damaged, end := covered(t, j, want); damaged != lost || end != next {
					t.Errorf("mended: %d packets are in gaps and the log ends at %d, want %d and %d", damaged, end, lost, next)
				}
				if got := j.Next(); got != 400 {
					t.Errorf("the next ordinal is %d, want 400", got)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if len(d.names(quarantine)) == 0 {
				t.Error("nothing is in quarantine")
			}
			for _, f := range packetFiles(d) {
				checkCapture(t, d.bytes(f))
			}
		})
	}
}

// checkCapture reads a pcap file to its end.
func checkCapture(t testing.TB, b []byte) {
	t.Helper()
	if bytes.HasPrefix(b, []byte(encryptedMagic)) {
		return
	}
	if _, err := pcap.CountRecords(b[pcap.FileHeaderLen:]); err != nil {
		t.Errorf("pcap file: %v", err)
	}
}

// A slowDisk waits where the old packets of a segment are in quarantine and the
// journal does not know yet.
type slowDisk struct {
	*disk
	replaced, met chan struct{} // closed when that is so, and when a file is not found then
	once          sync.Once
}

func (d *slowDisk) SyncDir(name string) error {
	if name == quarantine {
		close(d.replaced)
		<-d.met
	}
	return d.disk.SyncDir(name)
}

func (d *slowDisk) OpenFile(name string, flag int, mode fs.FileMode) (File, error) {
	f, err := d.disk.OpenFile(name, flag, mode)
	select {
	case <-d.replaced:
		if errors.Is(err, fs.ErrNotExist) {
			d.once.Do(func() { close(d.met) })
		}
	default:
	}
	return f, err
}

func TestAReaderWhoComesWhileASegmentIsMadeAnewLosesNothing(t *testing.T) {
	d := newDisk()
	want, next := record(t, d, 1<<20, nil, 30)
	slow := &slowDisk{disk: d, replaced: make(chan struct{}), met: make(chan struct{})}
	j := mustOpen(t, "model", Options{FS: slow, Damage: wire.CauseHistoryCorrupt})
	b := d.bytes(packetFiles(d)[0])
	d.mu.Lock()
	b[len(b)/2] ^= 1
	d.mu.Unlock()
	first, _ := covered(t, j, want)
	<-slow.replaced
	second, end := covered(t, j, want)
	if first == 0 || second != first || end != next {
		t.Errorf("the second reader misses %d packets, the first one %d; it ends at %d of %d", second, first, end, next)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestALostIndexIsRebuilt(t *testing.T) {
	d := newDisk()
	j, err := Open("model", Options{FS: d, Segment: 20 << 10})
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(testEpoch(1), 5)
	next := wire.PacketNumber(5)
	var want []byte
	for range 40 {
		h, r := testBatch(next, 10, 100)
		j.Append(h, r, 1)
		want = append(want, r...)
		next += 10
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range packetFiles(d) {
		if err := d.Remove(indexOf(f)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if j, err = Open("model", Options{FS: d}); err != nil {
			t.Fatal(err)
		}
		all, records := readAll(t, j.ReadOrdinal(0))
		if got := bytes.Join(records, nil); !bytes.Equal(got, want) || all[0].First != 5 || all[len(all)-1].Next() != next {
			t.Errorf("read %d bytes of packets %d to %d, want %d bytes of 5 to %d", len(got), all[0].First, all[len(all)-1].Next(), len(want), next)
		}
		if epochs := j.Epochs(); len(epochs) != 1 || epochs[0].LinkType != pcap.LinkEthernet || epochs[0].Snaplen != 65535 || epochs[0].Next != next {
			t.Errorf("epochs are %+v", epochs)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALostSegmentIsAGap(t *testing.T) {
	d := newDisk()
	want, next := record(t, d, 10<<10, nil, 40)
	files := packetFiles(d)
	for _, name := range []string{files[2], indexOf(files[2]), files[3]} { // of the second, the index stays
		if err := d.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	j, err := Open("model", Options{FS: d})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	damaged, end := covered(t, j, want)
	if _, count := readAll(t, j.ReadOrdinal(0)); end != next || damaged < 20 || len(count) == 0 {
		t.Errorf("%d packets are in gaps and the log ends at %d, want it to end at %d", damaged, end, next)
	}
	if damaged, end = covered(t, j, want); end != next || damaged < 20 {
		t.Errorf("then: %d packets are in gaps and the log ends at %d", damaged, end)
	}
}

func TestATornTailIsCutWhereverItIsTorn(t *testing.T) { bothWays(t, tornTail) }

func tornTail(t *testing.T, key *Key) {
	whole := newDisk()
	j, err := Open("model", Options{FS: whole, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(testEpoch(1), 0)
	want := map[wire.PacketNumber][]byte{}
	for i := range 3 {
		h, r := testBatch(wire.PacketNumber(2*i), 2, 50)
		j.Append(h, r, 1)
		want[wire.PacketNumber(2*i)] = bytes.Clone(r)
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	torn := whole.crash() // no seal
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	packets := packetFiles(torn)[0]
	p, x := bytes.Clone(torn.bytes(packets)), bytes.Clone(torn.bytes(indexOf(packets)))
	last := len(p) - len(want[4])
	if key != nil {
		last -= encryptedMore
	}
	cuts := 0
	try := func(p, x []byte) {
		cuts++
		d := newDisk()
		d.put(packets, p)
		d.put(indexOf(packets), x)
		j, err := Open("model", Options{FS: d, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if damaged, end := covered(t, j, want); damaged != 0 || end != 4 {
			t.Fatalf("torn at %d of %d, index at %d: %d in gaps, the log ends at %d, want 0 and 4", len(p), last, len(x), damaged, end)
		}
		checkCapture(t, d.bytes(packets))
	}
	for at := last; at < len(p); at++ {
		try(p[:at], x)
	}
	for at := len(x) - entryLen; at < len(x); at++ {
		try(p, x[:at])
	}
}

func TestOtherProgramsReadASegment(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	j.Begin(testEpoch(1), 0)
	for i := range 20 {
		h, r := testBatch(wire.PacketNumber(10*i), 10, 60)
		j.Append(h, r, 1)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+packetSuffix))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	for range 2 { // while it is being written, and afterwards
		out, err := exec.Command("tshark", "-n", "-r", files[0], "-T", "fields", "-e", "frame.time_epoch").Output()
		if lines := strings.Count(string(out), "\n"); err != nil || lines != 200 || !strings.Contains(string(out), "1700000000.000199000") {
			t.Errorf("tshark read %d packets, want 200: %v", lines, err)
		}
		out, err = exec.Command("tcpdump", "-n", "-tt", "--nano", "-r", files[0]).Output()
		if lines := strings.Count(string(out), "1700000000.0"); err != nil || lines != 200 {
			t.Errorf("tcpdump read %d packets, want 200: %v", lines, err)
		}
		if j != nil {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = nil
		}
	}
}

func TestNobodyElseMayLookIntoAJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history", "branch-7", "eth0")
	j := mustOpen(t, dir, Options{})
	j.Begin(testEpoch(1), 0)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s has mode %v: %v", path, info.Mode(), err)
		}
		files++
		return nil
	})
	if err != nil || files < 4 {
		t.Error(files, err)
	}
}

func TestASymbolicLinkIsNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := name{seq: 1, epoch: wire.Epoch{1}, first: 0}
	for _, link := range []string{n.index(), n.packets(0), n.draft()} {
		if err := os.Symlink(victim, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	j := mustOpen(t, dir, Options{})
	j.Begin(testEpoch(1), 0)
	h, r := testBatch(0, 1, 10)
	j.Append(h, r, 1)
	j.Close()
	if b, err := os.ReadFile(victim); err != nil || string(b) != "mine" {
		t.Errorf("the file that a link points to is now %q: %v", b, err)
	}
}

func TestAJournalIsOpenedOnce(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	defer j.Close()
	if second, err := Open(dir, Options{}); err == nil {
		second.Close()
		t.Fatal("the same journal was opened twice")
	} else if !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}
