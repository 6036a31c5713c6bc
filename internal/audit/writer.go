package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"poip/internal/asciijson"
)

const (
	retryAfter = time.Second      // a failed write
	sayAgain   = 10 * time.Second // that writes fail
	summarize  = time.Minute      // refusals that were withheld
)

// A writer has the file. It belongs to the goroutine that runs.
type writer struct {
	path string
	size int64 // at which the next file begins
	keep int

	file   *os.File
	length int64
	torn   bool // the file does not end with a line's end
}

func newWriter(path string, o Options) (*writer, error) {
	w := &writer{path: path, size: o.Size, keep: o.Keep}
	return w, w.open()
}

// open begins where the file ends, be it torn by a crash.
func (w *writer) open() error {
	f, err := openFile(w.path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	w.file, w.length, w.torn = f, info.Size(), info.Size() > 0 && !endsWell(w.path, info.Size())
	return nil
}

func endsWell(path string, size int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	n, err := f.ReadAt(last[:], size-1)
	return n == 1 && err == nil && last[0] == '\n'
}

// encode makes a line.
func encode(e Entry) ([]byte, error) {
	e.Time = e.Time.UTC()
	return asciijson.Line(e)
}

// write has the lines on the disk, each whole. It is append only: what a failed
// write has left is closed by a line's end, and the lines are written again.
func (w *writer) write(lines []byte) error {
	if w.file == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.torn {
		if _, err := w.file.Write([]byte{'\n'}); err != nil {
			return w.abandon(err)
		}
		w.torn, w.length = false, w.length+1
	}
	n, err := w.file.Write(lines)
	w.length += int64(n)
	w.torn = n > 0 && lines[n-1] != '\n'
	if err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		return w.abandon(err)
	}
	return nil
}

// abandon lets go of a file that has failed: after a failed fsync nobody knows
// what it holds, and it may have been moved away.
func (w *writer) abandon(err error) error {
	err = errors.Join(err, w.file.Close())
	w.file = nil
	return fmt.Errorf("write audit log: %w", err)
}

// rotate begins the next file when this one is full. When that fails, this one
// grows on.
func (w *writer) rotate() error {
	if w.file == nil || w.length < w.size {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(w.path))
	if err != nil {
		return fmt.Errorf("rotate audit log: %w", err)
	}
	defer root.Close()
	base := filepath.Base(w.path)
	nth := func(n int) string {
		if n == 0 {
			return base
		}
		return fmt.Sprintf("%s.%d", base, n)
	}
	for n := w.keep - 1; n >= 0; n-- {
		if err := root.Rename(nth(n), nth(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate audit log: %w", err)
		}
	}
	if err := w.file.Close(); err != nil {
		w.file = nil
		return fmt.Errorf("rotate audit log: %w", err)
	}
	return w.open()
}

// run writes what comes until ctx ends, and then what is left.
func (l *Log) run(ctx context.Context, w *writer) {
	defer close(l.done)
	defer func() {
		if w.file != nil {
			w.file.Close() // everything in it is synced
		}
	}()
	tick := time.NewTicker(summarize)
	defer tick.Stop()
	for {
		select {
		case e := <-l.queue:
			l.persist(ctx, w, l.gather(e))
		case <-tick.C:
			l.persist(ctx, w, append(encoded(l.limiter.summary(time.Now(), false)), l.confess()...))
		case <-ctx.Done():
			l.finish(ctx, w)
			return
		}
	}
}

// gather makes lines of an entry and those behind it, up to a bound.
func (l *Log) gather(e Entry) []byte {
	out := encoded([]Entry{e})
	for len(out) < 256<<10 {
		select {
		case e = <-l.queue:
			out = append(out, encoded([]Entry{e})...)
		default:
			return append(out, l.confess()...)
		}
	}
	return out
}

// confess is the line that says how many were lost, if any were.
func (l *Log) confess() []byte {
	n := l.lost.Swap(0)
	if n == 0 {
		return nil
	}
	l.log.Error("lines of the audit log are lost: it could not be written for too long", "lines", n, "file", l.path)
	return encoded([]Entry{{Time: time.Now(), Event: Lost, Count: n}})
}

func encoded(entries []Entry) []byte {
	var out bytes.Buffer
	for _, e := range entries {
		if text, err := encode(e); err == nil { // an Entry holds nothing that JSON cannot
			out.Write(text)
		}
	}
	return out.Bytes()
}

// persist writes until it succeeds. Once ctx has ended it tries once more, and
// counts the lines as lost.
func (l *Log) persist(ctx context.Context, w *writer, lines []byte) {
	if len(lines) == 0 {
		return
	}
	var said time.Time
	for {
		err := w.write(lines)
		if err == nil {
			break
		}
		l.failures.Add(1)
		if now := time.Now(); now.Sub(said) >= sayAgain {
			said = now
			l.log.Error("cannot write the audit log; trying again", "file", l.path, "waiting", len(l.queue), "error", err)
		}
		select {
		case <-ctx.Done():
			if err := w.write(lines); err != nil {
				l.lost.Add(uint64(bytes.Count(lines, []byte{'\n'})))
			}
			return
		case <-time.After(retryAfter):
		}
	}
	if err := w.rotate(); err != nil {
		l.failures.Add(1)
		l.log.Error("cannot rotate the audit log; it grows on", "file", l.path, "error", err)
	}
}

// finish writes what waits when the log is closed.
func (l *Log) finish(ctx context.Context, w *writer) {
	for {
		select {
		case e := <-l.queue:
			l.persist(ctx, w, l.gather(e))
		default:
			l.persist(ctx, w, encoded(l.limiter.summary(time.Now(), true)))
			return
		}
	}
}
