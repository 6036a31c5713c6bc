package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/poiptest"
	"poip/internal/wire"
)

// writeMuch appends a batch that is worth reserving blocks for.
func writeMuch(j *Journal, from wire.PacketNumber) wire.PacketNumber {
	h, r := testBatch(from, 4, 120<<10)
	j.Append(h, r, int64(from))
	return from + 4
}

func freeBytes(t *testing.T, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bfree) * int64(s.Bsize)
}

// TestASmallDiskTakesTheNewest: a disk much smaller than a segment, and than
// what is written at once, has room for the newest if the oldest may go.
func TestASmallDiskTakesTheNewest(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		dir := t.TempDir()
		poiptest.MountTmpfs(t, dir, 4<<20)
		j := mustOpen(t, filepath.Join(dir, "j"), Options{})
		j.Begin(testEpoch(1), 0)
		next := wire.PacketNumber(0)
		for range 40 { // 19 MB
			next = writeMuch(j, next)
		}
		gone := uint64(0)
		within(t, "all is durable", func() bool {
			if IsFull(j.Trouble()) {
				packets, _ := j.Keep(j.Size()-1<<20, 0)
				gone += packets
			}
			return j.Durable().Next == next
		})
		if gone == 0 || gone == uint64(next) {
			t.Errorf("%d of %d packets are gone", gone, next)
		}
		wholeFrom(t, j, wire.PacketNumber(gone), next)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReservedRoomComesBack: what one journal has reserved and does not use is
// there for another one.
func TestReservedRoomComesBack(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		dir := t.TempDir()
		poiptest.MountTmpfs(t, dir, 12<<20)
		a := mustOpen(t, filepath.Join(dir, "a"), Options{})
		defer a.Close()
		a.Begin(testEpoch(1), 0)
		last := writeMuch(a, 0)
		if err := a.Sync(); err != nil {
			t.Fatal(err)
		}
		if free := freeBytes(t, dir); free > 4<<20 {
			t.Errorf("%d bytes are free; want most of 12 MiB reserved", free)
		}
		b := mustOpen(t, filepath.Join(dir, "b"), Options{})
		defer b.Close()
		b.Begin(testEpoch(2), 0)
		next := wire.PacketNumber(0)
		for range 20 { // 9.8 MB
			next = writeMuch(b, next)
		}
		if err := b.Sync(); !IsFull(err) {
			t.Errorf("beside what is reserved there was room for all: %v", err)
		}
		for end := time.Now().Add(4 * restDelay); b.Durable().Next != next && time.Now().Before(end); {
			time.Sleep(100 * time.Millisecond)
		}
		if b.Durable().Next != next {
			t.Errorf("%d of %d are durable: %v", b.Durable().Next, next, b.Trouble())
		}
		writeMuch(a, last)
		if err := a.Sync(); err != nil {
			t.Error(err)
		}
	})
}

// stageAll appends pieces of every odd length to a file, through a stage, and
// compares what comes to stand there.
func stageAll(t *testing.T, f *diskFile) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var s stage
	var want []byte
	for _, n := range []int{24, 1, blockLen - 25, muchData - 1, 5, 3 * stageLen, 0, muchData + 2*blockLen, 700, stageLen - 1, 2 * muchData} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		s.open(f, int64(len(want)), int64(n))
		for len(b) > 0 { // as from chunks
			piece := b[:min(len(b), 1+rng.IntN(chunkLen))]
			if err := s.add(piece); err != nil {
				t.Fatal(err)
			}
			want, b = append(want, piece...), b[len(piece):]
		}
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want)+1)
		if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], want) {
			t.Fatalf("%d bytes are in the file, of %d, and they differ", n, len(want))
		}
	}
}

func newDiskFile(t *testing.T, dir string) *diskFile {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &diskFile{File: f}
}

func TestWhatIsWrittenPastTheCacheStandsInTheFile(t *testing.T) {
	f := newDiskFile(t, t.TempDir())
	stageAll(t, f)
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_DIRECT != 0 {
		t.Errorf("the file is left with flags %#x (%v)", flags, err)
	}
}

// TestFileSystemsWithoutDirectWrites: ramfs is one.
func TestFileSystemsWithoutDirectWrites(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		dir := t.TempDir()
		if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		f := newDiskFile(t, dir)
		if stageAll(t, f); !f.cached {
			t.Error("ramfs took a direct write")
		}
	})
}

// TestMuchIsKeptAsItCame: batches of any length, more than fit into a segment,
// some of them behind gaps or in rounds of their own.
func TestMuchIsKeptAsItCame(t *testing.T) {
	for _, key := range []*Key{nil, testKey(1)} {
		o := Options{Segment: 6 << 20, Batch: 3 << 20, Key: key}
		dir := filepath.Join(t.TempDir(), "j")
		j := mustOpen(t, dir, o)
		j.Begin(testEpoch(1), 0)
		rng := rand.New(rand.NewPCG(3, 4))
		var want [][]byte
		next := wire.PacketNumber(0)
		for range 800 {
			length := 1 << rng.IntN(18)
			h, r := testBatch(next, 2, length+rng.IntN(length))
			j.Append(h, r, int64(next))
			want = append(want, bytes.Clone(r))
			next += 2
			switch rng.IntN(20) {
			case 0:
				j.Gap(wire.Gap{First: next, Count: 1, Cause: wire.CauseKernelDrop}, int64(next))
				next++
			case 1:
				if err := j.Sync(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = mustOpen(t, dir, o)
		all, records := readAll(t, j.ReadOrdinal(0))
		if j.Damaged() != 0 || len(j.segments) < 5 {
			t.Errorf("%d packets are damaged in %d segments", j.Damaged(), len(j.segments))
		}
		for i, e := range all {
			if e.Kind != Batch {
				continue
			}
			if len(want) == 0 || !bytes.Equal(records[i], want[0]) {
				t.Fatalf("batch at %d is not what was appended", e.First)
			}
			want = want[1:]
		}
		if len(want) > 0 {
			t.Errorf("%d batches are missing", len(want))
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatWasReservedBehindASealComesBack: as after a kill between the seal and
// the closing of the file.
func TestWhatWasReservedBehindASealComesBack(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		dir := t.TempDir()
		poiptest.MountTmpfs(t, dir, 32<<20)
		j := mustOpen(t, filepath.Join(dir, "j"), Options{})
		j.Begin(testEpoch(1), 0)
		next := writeMuch(j, 0)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "j", "*.pcap"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%q (%v)", files, err)
		}
		before := freeBytes(t, dir)
		f, err := os.OpenFile(files[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(reserve(f, 0, 8<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
		if free := freeBytes(t, dir); free > before-4<<20 {
			t.Fatalf("%d bytes are free, as before", free)
		}
		j = mustOpen(t, filepath.Join(dir, "j"), Options{})
		defer j.Close()
		if free := freeBytes(t, dir); free < before-1<<16 {
			t.Errorf("%d bytes are free; want the %d there were", free, before)
		}
		wholeFrom(t, j, 0, next)
	})
}

// TestMemoryIsGivenBack: that of a burst, to the kernel, when little follows and
// when the journal is closed.
func TestMemoryIsGivenBack(t *testing.T) {
	for _, closed := range []bool{false, true} {
		j := openModel(t, newDisk(), Options{Delay: time.Hour, Batch: 1 << 30})
		j.Begin(testEpoch(1), 0)
		next := appendLong(j, 0, 80, 100<<10)
		var chunks [][]byte
		j.mu.Lock()
		for _, c := range j.backlog.chunks {
			if len(c.memory) == chunkLen {
				chunks = append(chunks, c.memory)
			}
		}
		j.mu.Unlock()
		if len(chunks) == 0 {
			t.Fatal("a burst waits in no chunk")
		}
		for !closed && j.held() > 2*smallChunkLen {
			if next = appendLong(j, next, 1, 1000); next > 10000 {
				t.Fatal("memory of a burst is kept for a trickle")
			}
			if err := j.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if closed {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for i, m := range chunks { // where a chunk was there may be others' memory by now, but not this mapping
			if err := unix.Munmap(m); !errors.Is(err, unix.EINVAL) {
				t.Errorf("chunk %d of %d was kept: unmapped now, %v", i, len(chunks), err)
			}
		}
		if !closed {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
