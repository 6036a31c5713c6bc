package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"poip/internal/pcap"
)

// progressInterval is how often File.Progress is called at most.
const progressInterval = 100 * time.Millisecond

// File reads a capture file, pcap or pcapng of any kind, from its beginning to
// its end. Several interfaces in it become several streams, "0", "1" and so on.
// Run returns nil at the end, or an error that wraps ErrBroken and says at
// which offset the file cannot be read any further, and why.
//
// The fields are set before Run.
type File struct {
	Path string
	Pace Pace // empty is PaceMax
	Take

	// Progress is told now and then, and at the end, how many bytes of how
	// many have been read. It may be nil.
	Progress func(done, total int64)

	pacer *pacer // of tests; nil is the real one
}

// Run implements Source.
func (f *File) Run(ctx context.Context, open func(Info) Sink) error {
	err := f.read(ctx, open)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return broken{fmt.Errorf("read file %s: %w", f.Path, err)}
}

// Check reports what would keep Run from delivering any packet: a file that is
// not there or is no capture file, a filter that does not suit its packets.
func (f *File) Check(ctx context.Context) error {
	file, _, err := openRegular(f.Path)
	if err != nil {
		return fmt.Errorf("read file %s: %w", f.Path, err)
	}
	defer file.Close()
	r, err := pcap.NewReader(cancelable{ctx, file})
	if err != nil {
		return fmt.Errorf("read file %s: %w", f.Path, err)
	}
	// With the first packet, the interface that it came from is known. That
	// there is none, or a damaged one, is for Run to find.
	_, _ = r.Next()
	try := feed{take: f.Take, open: func(Info) Sink { return nil }}
	return try.announce(ctx, r.Interfaces())
}

func (f *File) read(ctx context.Context, open func(Info) Sink) error {
	file, size, err := openRegular(f.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	several := pcap.SeveralInterfaces(cancelable{ctx, file})
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in := &watched{in: cancelable{ctx, file}, total: size, progress: f.Progress}
	defer in.report()
	carry := feed{take: f.Take, open: open, several: several, direct: true}
	if f.Pace == PaceOriginal {
		if carry.pace = f.pacer; carry.pace == nil {
			carry.pace = newPacer()
		}
	}
	return carry.run(ctx, in)
}

// openRegular opens a file that can be read twice and never makes one wait.
func openRegular(path string) (*os.File, int64, error) {
	info, err := os.Stat(path) // before it is opened, which waits with a FIFO
	if err != nil {
		return nil, 0, cause(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("it is not a regular file: read it by stdin, or by a command as in [\"cat\", PATH]")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, cause(err)
	}
	return file, info.Size(), nil
}

// cause leaves away that a path error names the path, for errors that do so
// already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// cancelable is a file of which no more can be read when ctx has ended.
type cancelable struct {
	ctx context.Context
	*os.File
}

func (c cancelable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.File.Read(p)
}

// watched tells about the progress of reading.
type watched struct {
	in          io.Reader
	done, total int64
	progress    func(done, total int64)
	next        time.Time // when to tell again
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	w.done += int64(n)
	if w.progress != nil && time.Now().After(w.next) {
		w.report()
		w.next = time.Now().Add(progressInterval)
	}
	return n, err
}

func (w *watched) report() {
	if w.progress != nil {
		w.progress(w.done, max(w.done, w.total))
	}
}
