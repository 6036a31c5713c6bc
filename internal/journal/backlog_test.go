package journal

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/wire"
)

// held is how much memory there is for records, in bytes.
func (j *Journal) held() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.backlog.chunks {
		n += len(c.memory)
	}
	for _, m := range j.backlog.spare {
		n += len(m)
	}
	return n
}

func appendLong(j *Journal, from wire.PacketNumber, n, length int) wire.PacketNumber {
	for range n {
		h, r := testBatch(from, 1, length)
		j.Append(h, r, int64(from))
		from++
	}
	return from
}

// TestQuietStreamsTakeLittleMemory: also after a burst.
func TestQuietStreamsTakeLittleMemory(t *testing.T) {
	j := openModel(t, newDisk(), Options{})
	defer j.Close()
	j.Begin(testEpoch(1), 0)
	next := appendLong(j, 0, 80, 100<<10)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	if n := j.held(); n < chunkLen { // the disk may have confirmed much of it before the last came
		t.Errorf("%d bytes are kept after a burst of %d; want enough for another", n, 80*100<<10)
	}
	for range 1100 {
		next = appendLong(j, next, 1, 1000)
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if n := j.held(); n > 2*smallChunkLen {
		t.Errorf("%d bytes are held for a trickle", n)
	}
}

// TestConfirmedRecordsAreNotKept where the disk has no room for what follows.
func TestConfirmedRecordsAreNotKept(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Delay: time.Hour, Batch: 1 << 30})
	j.Begin(testEpoch(1), 0)
	appendLong(j, 0, 80, 100<<10)
	j.Begin(testEpoch(2), 0)
	made := 0
	d.mu.Lock()
	d.failing = func(op, name string) error {
		if op == "open" && strings.HasSuffix(name, indexSuffix) {
			if made++; made > 1 {
				return syscall.ENOSPC
			}
		}
		return nil
	}
	d.mu.Unlock()
	if err := j.Sync(); !IsFull(err) {
		t.Fatalf("synced: %v", err)
	}
	j.mu.Lock()
	if n := len(j.backlog.chunks); n > 1 {
		t.Errorf("%d chunks hold what is durable", n)
	}
	j.mu.Unlock()
	d.mu.Lock()
	d.failing = nil
	d.mu.Unlock()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
