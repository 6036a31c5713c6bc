package agent

import (
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"poip/internal/journal"
)

// A testDisk is the folder of a journal, on a disk of some size, which confirms
// everything at once.
type testDisk struct {
	root *os.Root
	most *atomic.Int64 // bytes that fit; 0: whatever comes
}

func newTestDisk(t testing.TB, dir string, most *atomic.Int64) *testDisk {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &testDisk{root, most}
}

// fits says whether there is room for n more bytes.
func (d *testDisk) fits(n int64) error {
	if most := d.most.Load(); most > 0 && n > 0 && used(d.root.FS())+n > most {
		return syscall.ENOSPC
	}
	return nil
}

// used is how many bytes the files of a folder have.
func used(folder fs.FS) (bytes int64) {
	fs.WalkDir(folder, ".", func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}

func (d *testDisk) OpenFile(name string, flag int, mode fs.FileMode) (journal.File, error) {
	f, err := d.root.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	return testFile{f, d}, nil
}

func (d *testDisk) Lstat(name string) (fs.FileInfo, error)     { return d.root.Lstat(name) }
func (d *testDisk) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(d.root.FS(), name) }
func (d *testDisk) Mkdir(name string, mode fs.FileMode) error  { return d.root.Mkdir(name, mode) }
func (d *testDisk) Rename(from, to string) error               { return d.root.Rename(from, to) }
func (d *testDisk) Remove(name string) error                   { return d.root.Remove(name) }
func (d *testDisk) SyncDir(string) error                       { return nil }
func (d *testDisk) Close() error                               { return d.root.Close() }

type testFile struct {
	*os.File
	disk *testDisk
}

func (f testFile) Sync() error { return nil }

func (f testFile) WriteAt(b []byte, at int64) (int, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if err := f.disk.fits(at + int64(len(b)) - info.Size()); err != nil {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return f.File.WriteAt(b, at)
}
