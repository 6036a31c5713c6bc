package agent

import (
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"poip/internal/journal"
)

// A testDisk is the folder of a journal, on a disk that fails while full is
// set, and confirms everything at once.
type testDisk struct {
	root *os.Root
	full *atomic.Bool
}

func newTestDisk(t testing.TB, dir string, full *atomic.Bool) *testDisk {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &testDisk{root, full}
}

func (d *testDisk) fails() error {
	if d.full.Load() {
		return syscall.ENOSPC
	}
	return nil
}

func (d *testDisk) OpenFile(name string, flag int, mode fs.FileMode) (journal.File, error) {
	if flag&os.O_CREATE != 0 {
		if err := d.fails(); err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
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
	if err := f.disk.fails(); err != nil {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return f.File.WriteAt(b, at)
}
