// Package audit keeps the audit log of a relay: who read which stream from when
// to when, who was refused, which certificates were given and taken away, and
// what was changed. docs/AUDIT.md describes it for those who read it.
//
// The log is a file of JSON lines that is only ever appended to, and rotated by
// renaming. Write puts an Entry (entry.go) into a bounded queue and never
// waits; one goroutine (writer.go) has them on the disk within a second. When
// that fails, the lines wait, and packets flow; when too many wait, they are
// lost, which is counted, and said in the log as soon as it can be written
// again. Refusals go through Refuse (refusals.go), which writes a few of a kind
// and counts the others, so that no scanner can fill the disk.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"poip/internal/owner"
)

// File is where the log is, below a relay's data folder, unless the
// configuration says otherwise.
const File = "audit/audit.jsonl"

const (
	folderMode fs.FileMode = 0o700
	fileMode   fs.FileMode = 0o600

	queueLen = 4096 // lines that may wait for the disk

	// closeLimit is for a disk that hangs: the relay has five seconds to end.
	closeLimit = time.Second
)

// Options say how much is kept. Zero values mean the defaults.
type Options struct {
	Size int64        // bytes at which the next file begins; default 64 MiB
	Keep int          // files kept beside the one in use; default 8
	Log  *slog.Logger // where failures are told; default slog.Default()
}

// Log is an audit log in use. A nil *Log takes and drops everything.
type Log struct {
	// Set once by Open.
	opts Options
	log  *slog.Logger
	path string
	stop context.CancelFunc
	done chan struct{} // closed when the writer has ended

	queue    chan Entry
	lost     atomic.Uint64 // lines that found the queue full, since the last that said so
	failures atomic.Uint64
	limiter  limiter

	closing sync.RWMutex // held for reading while something is put into the queue
	closed  bool         // guarded by closing
}

// Open appends to the log at path, and makes it where it is not there.
func Open(path string, o Options) (*Log, error) {
	if o.Size <= 0 {
		o.Size = 64 << 20
	}
	if o.Keep <= 0 {
		o.Keep = 8
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	w, err := newWriter(path, o)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Log{opts: o, log: o.Log, path: path, stop: stop, done: make(chan struct{}), queue: make(chan Entry, queueLen)}
	go l.run(ctx, w)
	return l, nil
}

// Path is where the log is.
func (l *Log) Path() string {
	if l == nil {
		return ""
	}
	return l.path
}

// Failures counts the writes that failed.
func (l *Log) Failures() uint64 {
	if l == nil {
		return 0
	}
	return l.failures.Load()
}

// Write adds a line. It never waits and never fails; what cannot be written is
// counted and told.
func (l *Log) Write(e Entry) {
	if l == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return
	}
	select {
	case l.queue <- e.bounded():
	default:
		l.lost.Add(1)
	}
}

// Close writes what waits, or gives up after a second, and ends.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.closing.Lock()
	already := l.closed
	l.closed = true
	l.closing.Unlock()
	l.stop()
	select {
	case <-l.done:
	case <-time.After(closeLimit):
		return fmt.Errorf("close audit log: %s does not take what is written to it", l.path)
	}
	if n := l.lost.Load(); n > 0 && !already {
		return fmt.Errorf("close audit log: %d lines could not be written to %s", n, l.path)
	}
	return nil
}

// Append adds a line to the log at path, beside a relay that may be running:
// this is for commands.
func Append(path string, e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	w, err := newWriter(path, Options{})
	if err != nil {
		return err
	}
	text, err := encode(e.bounded())
	if err == nil {
		err = w.write(text)
	}
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
	}
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// openFolder makes the log's folder where it is not there.
func openFolder(dir string) (*os.Root, error) {
	if err := os.MkdirAll(filepath.Dir(dir), folderMode); err != nil {
		return nil, err
	}
	above, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	if err := owner.Mkdir(above, filepath.Base(dir), folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// openFile opens the file for appending, in a folder of its own that nobody
// else can enter. A log that others can read is refused.
func openFile(path string) (*os.File, error) {
	root, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.Base(path), os.O_WRONLY|os.O_APPEND|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	_ = owner.Give(f, root) // a log of another owner is better than none
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	if err == nil {
		err = owner.CheckMode(path, info.Mode(), fileMode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	return f, nil
}
