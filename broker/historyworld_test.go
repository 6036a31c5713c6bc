package broker

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"testing"

	"poip/auth"
	"poip/internal/journal"
)

// disk is what the histories of a world are on. It does as it is told.
type disk struct {
	mu     sync.Mutex
	sync   func() error      // before each fsync of a file; nil: nothing
	write  func(n int) error // before each write; nil: nothing
	shaken sync.Cond
	frozen bool // fsync waits
}

func newDisk() *disk {
	d := new(disk)
	d.shaken.L = &d.mu
	return d
}

// freeze has every fsync wait until thaw.
func (d *disk) freeze() { d.set(func() { d.frozen = true }) }
func (d *disk) thaw()   { d.set(func() { d.frozen = false }) }

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	d.shaken.Broadcast()
}

func (d *disk) beforeSync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.frozen {
		d.shaken.Wait()
	}
	if d.sync != nil {
		return d.sync()
	}
	return nil
}

func (d *disk) beforeWrite(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.write != nil {
		return d.write(n)
	}
	return nil
}

// open is an Options.OpenJournal.
func (d *disk) open(dir string, o journal.Options) (*journal.Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	o.FS = diskFolder{d, root}
	return journal.Open(dir, o)
}

type diskFolder struct {
	disk *disk
	root *os.Root
}

func (f diskFolder) OpenFile(name string, flag int, mode fs.FileMode) (journal.File, error) {
	file, err := f.root.OpenFile(name, flag, mode)
	if err != nil {
		return nil, err
	}
	return diskFile{file, f.disk}, nil
}

func (f diskFolder) Lstat(name string) (fs.FileInfo, error)     { return f.root.Lstat(name) }
func (f diskFolder) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(f.root.FS(), name) }
func (f diskFolder) Mkdir(name string, mode fs.FileMode) error  { return f.root.Mkdir(name, mode) }
func (f diskFolder) Rename(from, to string) error               { return f.root.Rename(from, to) }
func (f diskFolder) Remove(name string) error                   { return f.root.Remove(name) }
func (f diskFolder) SyncDir(string) error                       { return nil }
func (f diskFolder) Close() error                               { return f.root.Close() }

type diskFile struct {
	*os.File
	disk *disk
}

func (f diskFile) Sync() error {
	if err := f.disk.beforeSync(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f diskFile) WriteAt(p []byte, at int64) (int, error) {
	if err := f.disk.beforeWrite(len(p)); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

// keeping turns histories on.
func keeping(c *Config) { c.Stream.History = 1 << 30 }

// newWorldOn is newWorld with histories, on a disk that does as it is told.
func newWorldOn(t testing.TB, d *disk, change func(*Config), listeners ...ListenerConfig) *world {
	t.Helper()
	cfg := testConfig(t, func(c *Config) {
		keeping(c)
		if change != nil {
			change(c)
		}
	}, listeners...)
	return startWorldOn(t, d, cfg)
}

func startWorldOn(t testing.TB, d *disk, cfg Config) *world {
	t.Helper()
	return startWorld(t, cfg, func(o *Options) { o.OpenJournal = d.open })
}

// sequence is payloads from number i to before j.
func sequence(i, j int) (out []string) {
	for ; i < j; i++ {
		out = append(out, fmt.Sprintf("packet %d", i))
	}
	return out
}

// again stops the relay, and starts another one with what it has left.
func (w *world) again() *world {
	w.t.Helper()
	w.stop()
	return startWorld(w.t, w.cfg)
}

// streamName is the name of the agent's stream, taken apart.
func (a *agent) streamName() auth.StreamName {
	name, err := auth.ParseStreamName(a.name)
	if err != nil {
		a.t.Fatal(err)
	}
	return name
}
