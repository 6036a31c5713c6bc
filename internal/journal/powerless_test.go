package journal

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// A disk is an FS in memory that knows what would survive a power cut: of a
// file, what was synced, and any of the pages written since; of a folder, the
// entries that were synced, and the first few of the changes since.
type disk struct {
	mu      sync.Mutex
	dirs    map[string]*modelDir
	space   int64 // bytes left; negative: without bound
	failing func(op, name string) error
}

type modelDir struct {
	now     map[string]*inode
	synced  map[string]*inode
	changes []func(map[string]*inode) // since synced
}

type inode struct {
	mode   fs.FileMode
	data   []byte
	synced []byte
	dirty  map[int]bool // pages written since
}

const page = 512

func newDisk() *disk {
	return &disk{dirs: map[string]*modelDir{".": newModelDir()}, space: -1}
}

func newModelDir() *modelDir {
	return &modelDir{now: map[string]*inode{}, synced: map[string]*inode{}}
}

func (d *modelDir) change(c func(map[string]*inode)) {
	c(d.now)
	d.changes = append(d.changes, c)
}

// cut returns the disk after a power cut: with keep, some of what was not
// synced is there.
// For holders of mu.
func (d *disk) cut(rng *rand.Rand, keep bool) *disk {
	after := newDisk()
	after.space = d.space
	copies := map[*inode]*inode{}
	for name, dir := range d.dirs {
		entries := map[string]*inode{}
		for k, v := range dir.synced {
			entries[k] = v
		}
		if keep {
			for _, c := range dir.changes[:rng.IntN(len(dir.changes)+1)] {
				c(entries)
			}
		}
		to := newModelDir()
		for k, v := range entries {
			if copies[v] == nil {
				copies[v] = v.cut(rng, keep)
			}
			to.now[k], to.synced[k] = copies[v], copies[v]
		}
		after.dirs[name] = to
	}
	return after
}

// crash returns the disk as another process finds it after a kill -9: nothing
// is lost, and nothing more is synced.
func (d *disk) crash() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newDisk()
	after.space = d.space
	copies := map[*inode]*inode{}
	copyOf := func(n *inode) *inode {
		if copies[n] == nil {
			copies[n] = &inode{mode: n.mode, data: slices.Clone(n.data), synced: slices.Clone(n.synced), dirty: map[int]bool{}}
			for p := range n.dirty {
				copies[n].dirty[p] = true
			}
		}
		return copies[n]
	}
	for name, dir := range d.dirs {
		to := newModelDir()
		for k, v := range dir.now {
			to.now[k] = copyOf(v)
		}
		for k, v := range dir.synced {
			to.synced[k] = copyOf(v)
		}
		now := to.now
		to.changes = append(to.changes, func(m map[string]*inode) { // all at once
			clear(m)
			for k, v := range now {
				m[k] = v
			}
		})
		after.dirs[name] = to
	}
	return after
}

func (n *inode) cut(rng *rand.Rand, keep bool) *inode {
	data := slices.Clone(n.synced)
	if keep && len(n.dirty) > 0 {
		size := len(n.synced)
		if rng.IntN(2) == 0 {
			size = min(size, len(n.data)) + rng.IntN(max(len(n.data)-size, 0)+1)
		}
		data = append(data[:min(size, len(data))], make([]byte, max(0, size-len(data)))...)
		for p := range n.dirty {
			if from := p * page; from < len(n.data) && from < len(data) && rng.IntN(2) == 0 {
				copy(data[from:], n.data[from:min(from+page, len(n.data))])
			}
		}
	}
	return &inode{mode: n.mode, data: data, synced: slices.Clone(data), dirty: map[int]bool{}}
}

func (d *disk) fail(op, name string) error {
	if d.failing != nil {
		return d.failing(op, name)
	}
	return nil
}

// use takes space; for holders of mu.
func (d *disk) use(n int64) error {
	if d.space < 0 || n <= 0 {
		return nil
	}
	if n > d.space {
		return syscall.ENOSPC
	}
	d.space -= n
	return nil
}

func (d *disk) free(n int64) {
	if d.space >= 0 {
		d.space += n
	}
}

func (d *disk) in(name string) (*modelDir, string, error) {
	dir := d.dirs[path.Dir(name)]
	if dir == nil {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return dir, path.Base(name), nil
}

func (d *disk) OpenFile(name string, flag int, mode fs.FileMode) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail("open", name); err != nil {
		return nil, err
	}
	dir, base, err := d.in(name)
	if err != nil {
		return nil, err
	}
	n := dir.now[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n != nil && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case n == nil:
		n = &inode{mode: mode, dirty: map[int]bool{}}
		dir.change(func(m map[string]*inode) { m[base] = n })
	}
	return &modelFile{d: d, n: n, name: name}, nil
}

func (d *disk) Lstat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.in(name)
	if err != nil {
		return nil, err
	}
	if n := dir.now[base]; n != nil {
		return modelInfo{base, n.mode, int64(len(n.data))}, nil
	}
	return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
}

func (d *disk) ReadDir(name string) (all []fs.DirEntry, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := d.dirs[name]
	if dir == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	for base, n := range dir.now {
		all = append(all, fs.FileInfoToDirEntry(modelInfo{base, n.mode, int64(len(n.data))}))
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}

func (d *disk) Mkdir(name string, mode fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dirs[name] != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	d.dirs[name] = newModelDir()
	return nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail("rename", from); err != nil {
		return err
	}
	source, a, err := d.in(from)
	if err != nil {
		return err
	}
	target, b, err := d.in(to)
	if err != nil {
		return err
	}
	n := source.now[a]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if source == target { // one step
		source.change(func(m map[string]*inode) { m[b] = n; delete(m, a) })
		return nil
	}
	target.change(func(m map[string]*inode) { m[b] = n })
	source.change(func(m map[string]*inode) { delete(m, a) })
	return nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail("remove", name); err != nil {
		return err
	}
	dir, base, err := d.in(name)
	if err != nil {
		return err
	}
	n := dir.now[base]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.free(int64(len(n.data)))
	dir.change(func(m map[string]*inode) { delete(m, base) })
	return nil
}

func (d *disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail("syncdir", name); err != nil {
		return err
	}
	dir := d.dirs[name]
	if dir == nil {
		return fs.ErrNotExist
	}
	dir.synced, dir.changes = map[string]*inode{}, nil
	for k, v := range dir.now {
		dir.synced[k] = v
	}
	return nil
}

func (d *disk) Close() error { return nil }

// names of the files in a folder.
func (d *disk) names(dir string) (names []string) {
	all, _ := d.ReadDir(dir)
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// bytes of a file, to be damaged.
func (d *disk) bytes(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.in(name)
	if err != nil || dir.now[base] == nil {
		return nil
	}
	return dir.now[base].data
}

// put makes a file, or replaces what it holds.
func (d *disk) put(name string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(name, data)
}

// set is put, for holders of mu.
func (d *disk) set(name string, data []byte) {
	dir, base, err := d.in(name)
	if err != nil {
		panic(err)
	}
	n := &inode{mode: 0o600, data: slices.Clone(data), synced: slices.Clone(data), dirty: map[int]bool{}}
	dir.now[base], dir.synced[base] = n, n
}
