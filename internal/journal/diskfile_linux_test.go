package journal

import (
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
