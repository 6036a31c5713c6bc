package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"poip/internal/wire"
)

const benchBatch = 64 << 10

// countingFS counts fsyncs.
type countingFS struct {
	FS
	syncs int
}

type countingFile struct {
	File
	fs *countingFS
}

func (c *countingFS) OpenFile(name string, flag int, mode os.FileMode) (File, error) {
	f, err := c.FS.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	return countingFile{f, c}, nil
}

func (f countingFile) Sync() error {
	f.fs.syncs++
	return f.File.Sync()
}

// plainAndEncrypted runs a benchmark with plain packets, and with encrypted ones.
func plainAndEncrypted(b *testing.B, bench func(b *testing.B, key *Key)) {
	b.Run("plain", func(b *testing.B) { bench(b, nil) })
	b.Run("encrypted", func(b *testing.B) { bench(b, testKey(1)) })
}

// BenchmarkAppend appends batches as fast as the disk confirms them.
func BenchmarkAppend(b *testing.B) { plainAndEncrypted(b, benchAppend) }

func benchAppend(b *testing.B, key *Key) {
	f, err := openFolder(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	counting := &countingFS{FS: f}
	j := mustOpen(b, "bench", Options{FS: counting, Key: key})
	j.Begin(testEpoch(1), 0)
	h, r := testBatch(0, benchBatch/1016, 1000)
	b.SetBytes(int64(len(r)))
	b.ReportAllocs()
	next := wire.PacketNumber(0)
	count := wire.PacketNumber(wire.ParseBatchHeader(h).Count)
	for b.Loop() {
		putFirst(h, next)
		j.Append(h, r, int64(next))
		next += count
		for j.Pending() > 16<<20 {
			time.Sleep(100 * time.Microsecond)
		}
		if next%(count*20000) == 0 {
			j.Keep(256<<20, 0)
		}
	}
	if err := j.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(counting.syncs)/b.Elapsed().Seconds(), "fsyncs/s")
	j.Close()
}

// putFirst changes the number in a header; its CRC does not matter here.
func putFirst(h []byte, n wire.PacketNumber) {
	for i := range 8 {
		h[i] = byte(n >> (8 * i))
	}
}

// BenchmarkPlainFile writes as much to one file, with an fsync for as many
// bytes as the journal gathers.
func BenchmarkPlainFile(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	_, r := testBatch(0, benchBatch/1016, 1000)
	b.SetBytes(int64(len(r)))
	written := 0
	for b.Loop() {
		if _, err := f.Write(r); err != nil {
			b.Fatal(err)
		}
		if written += len(r); written >= defaultBatch {
			if err := syncData(f); err != nil {
				b.Fatal(err)
			}
			written = 0
		}
		if at, _ := f.Seek(0, io.SeekCurrent); at > 256<<20 {
			f.Truncate(0)
			f.Seek(0, io.SeekStart)
		}
	}
}

// fillJournal writes so many bytes of packets.
func fillJournal(b *testing.B, dir string, size int64, key *Key) {
	j := mustOpen(b, dir, Options{Key: key})
	j.Begin(testEpoch(1), 0)
	next := wire.PacketNumber(0)
	for written := int64(0); written < size; {
		h, r := testBatch(next, benchBatch/1016, 1000)
		j.Append(h, r, int64(next))
		next += benchBatch / 1016
		written += int64(len(r))
		for j.Pending() > 16<<20 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRecover opens journals whose last segment was not concluded.
func BenchmarkRecover(b *testing.B) {
	for _, size := range []int64{32 << 20, 512 << 20} {
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			dir := b.TempDir()
			fillJournal(b, dir, size, nil)
			indexes, err := filepath.Glob(filepath.Join(dir, "*"+indexSuffix))
			if err != nil {
				b.Fatal(err)
			}
			last := indexes[len(indexes)-1]
			for b.Loop() {
				info, err := os.Stat(last)
				if err != nil {
					b.Fatal(err)
				}
				if err := os.Truncate(last, info.Size()-entryLen); err != nil { // its seal
					b.Fatal(err)
				}
				mustOpen(b, dir, Options{}).Close()
			}
		})
	}
}

// BenchmarkRead reads from the beginning to the end, checksums included.
func BenchmarkRead(b *testing.B) { plainAndEncrypted(b, benchRead) }

func benchRead(b *testing.B, key *Key) {
	dir := b.TempDir()
	const size = 256 << 20
	fillJournal(b, dir, size, key)
	j := mustOpen(b, dir, Options{Key: key})
	defer j.Close()
	b.SetBytes(size)
	for b.Loop() {
		r := j.ReadOrdinal(0)
		for {
			if _, err := r.Next(1 << 20); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
		r.Close()
	}
}
