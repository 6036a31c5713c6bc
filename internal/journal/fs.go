package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// FS is the folder of a journal: what the journal does to it, and when it asks
// for what was done to be on the disk. Names are relative, with slashes.
//
// Files below a folder of the operating system are one FS; the model of a disk
// that loses power, in the tests, is another.
type FS interface {
	OpenFile(name string, flag int, mode fs.FileMode) (File, error)
	Lstat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	Mkdir(name string, mode fs.FileMode) error
	Rename(from, to string) error
	Remove(name string) error
	SyncDir(name string) error // the entries of a folder
	Close() error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error // data and length
}

// folder is the FS of the operating system: everything goes through os.Root.
type folder struct {
	root *os.Root
	lock *os.File // nil: not ours to write
}

// openFolder makes dir where it is missing, and keeps others out of it.
func openFolder(dir string) (*folder, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	f, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := f.claim(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openRoot opens dir to read.
func openRoot(dir string) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &folder{root: root}, nil
}

// claim takes the lock that one journal at a time may have.
func (f *folder) claim() (err error) {
	info, err := f.root.Stat(".")
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		if err := f.root.Chmod(".", 0o700); err != nil {
			return err
		}
	}
	if f.lock, err = f.root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := lockFile(f.lock); err != nil {
		return fmt.Errorf("%s is in use by another process: %w", f.root.Name(), err)
	}
	return nil
}

// makeDir makes dir and its parents, and has their entries on the disk.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%s is no folder", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncEntries(d)
}

var errNotRegular = errors.New("not a regular file")

// OpenFile opens or makes a regular file; it follows no symbolic link.
func (f *folder) OpenFile(name string, flag int, mode fs.FileMode) (File, error) {
	before, err := f.root.Lstat(name)
	if err == nil && !before.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	file, openErr := f.root.OpenFile(name, flag, mode)
	if openErr != nil {
		return nil, openErr
	}
	if err == nil { // else it was made just now
		if after, statErr := file.Stat(); statErr != nil || !os.SameFile(before, after) {
			file.Close()
			return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
		}
	}
	return &diskFile{File: file}, nil
}

func (f *folder) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.root.FS(), name) }

func (f *folder) Lstat(name string) (fs.FileInfo, error)    { return f.root.Lstat(name) }
func (f *folder) Mkdir(name string, mode fs.FileMode) error { return f.root.Mkdir(name, mode) }
func (f *folder) Rename(from, to string) error              { return f.root.Rename(from, to) }
func (f *folder) Remove(name string) error                  { return f.root.Remove(name) }

func (f *folder) SyncDir(name string) error {
	d, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncEntries(d)
}

func (f *folder) Close() error {
	var lock error
	if f.lock != nil {
		lock = f.lock.Close()
	}
	return errors.Join(lock, f.root.Close())
}
