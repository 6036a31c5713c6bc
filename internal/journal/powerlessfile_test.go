package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"syscall"
	"time"
)

type modelFile struct {
	d    *disk
	n    *inode
	name string
}

func (f *modelFile) ReadAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fail("read", f.name); err != nil {
		return 0, err
	}
	if at >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes as much as there is space for.
func (f *modelFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fail("write", f.name); err != nil {
		return 0, err
	}
	grow := at + int64(len(b)) - int64(len(f.n.data))
	var failed error
	if grow > 0 && f.d.space >= 0 && grow > f.d.space {
		b, failed = b[:max(0, int64(len(b))-(grow-f.d.space))], syscall.ENOSPC
		grow = at + int64(len(b)) - int64(len(f.n.data))
	}
	if len(b) == 0 {
		return 0, failed
	}
	if err := f.d.use(grow); err != nil {
		return 0, err
	}
	if end := at + int64(len(b)); end > int64(len(f.n.data)) {
		f.n.data = append(f.n.data, make([]byte, end-int64(len(f.n.data)))...)
	}
	copy(f.n.data[at:], b)
	for p := int(at) / page; p*page < int(at)+len(b); p++ {
		f.n.dirty[p] = true
	}
	return len(b), failed
}

func (f *modelFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fail("truncate", f.name); err != nil {
		return err
	}
	if size < int64(len(f.n.data)) {
		f.d.free(int64(len(f.n.data)) - size)
		f.n.data = f.n.data[:size:size]
	}
	f.n.dirty[int(size)/page] = true
	return nil
}

var errSync = errors.New("injected: the disk has lost what was written")

// Sync fails as Linux does: the pages count as clean, and are lost.
func (f *modelFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.fail("sync", f.name); err != nil {
		f.n.dirty = map[int]bool{}
		return err
	}
	n := f.n
	n.synced = append(n.synced[:min(len(n.synced), len(n.data))], make([]byte, max(0, len(n.data)-len(n.synced)))...)
	for p := range n.dirty {
		if from := p * page; from < len(n.data) {
			copy(n.synced[from:], n.data[from:min(from+page, len(n.data))])
		}
	}
	n.dirty = map[int]bool{}
	return nil
}

func (f *modelFile) Stat() (fs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return modelInfo{path.Base(f.name), f.n.mode, int64(len(f.n.data))}, nil
}

func (f *modelFile) Close() error { return nil }

type modelInfo struct {
	name string
	mode fs.FileMode
	size int64
}

func (i modelInfo) Name() string       { return i.name }
func (i modelInfo) Size() int64        { return i.size }
func (i modelInfo) Mode() fs.FileMode  { return i.mode }
func (i modelInfo) ModTime() time.Time { return time.Unix(0, 1) }
func (i modelInfo) IsDir() bool        { return false }
func (i modelInfo) Sys() any           { return nil }
func (i modelInfo) String() string     { return fmt.Sprintf("%s (%d bytes)", i.name, i.size) }
