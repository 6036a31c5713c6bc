package journal

import (
	"errors"
	"os"
)

// A diskFile is a file of the operating system, made cheap to append much to.
type diskFile struct {
	*os.File

	// Owned by who writes.
	reserved int64 // blocks were asked for up to here; negative: no more
	cached   bool  // direct writes are not possible
}

const (
	// muchData is more than an index takes at once, in bytes, and less than a
	// busy stream's records.
	muchData = 128 << 10

	// reserveAhead is for how many bytes to come blocks are asked for. Streams
	// with little to say never have any.
	reserveAhead = 8 << 20
)

// Sync leaves out what no reader needs: the file's times.
func (f *diskFile) Sync() error { return syncData(f.File) }

// WriteAt has blocks for what is much, and for more of it, reserved behind the
// end of the file, which costs less than finding them for each write. It writes
// whole blocks past the page cache, if b holds them as a stage does: that takes
// a fifth of the processor time off a stream that a history keeps up with, and
// leaves the cache to what somebody reads. None of it promises anything: Sync
// does.
func (f *diskFile) WriteAt(b []byte, at int64) (n int, err error) {
	if end := at + int64(len(b)); len(b) >= muchData && f.reserved >= 0 && end > f.reserved {
		f.reserve(at, end+reserveAhead)
	}
	head := min(len(b), int(-at&(blockLen-1))) // up to the first whole block
	tail := len(b) - (len(b)-head)%blockLen
	if f.cached || tail-head < muchData || blockOffset(b[head:]) != 0 {
		return f.writeCached(b, at)
	}
	if n, err = f.File.WriteAt(b[:head], at); err != nil {
		return n, err
	}
	n, err = f.writeDirect(b[head:tail], at+int64(head))
	if n += head; err != nil {
		return n, err
	}
	n, err = f.File.WriteAt(b[tail:], at+int64(tail))
	return tail + n, err
}

// writeDirect writes whole blocks past the page cache. Where the file system
// knows no such way, all of this file goes the other from now on.
func (f *diskFile) writeDirect(b []byte, at int64) (n int, err error) {
	if setDirect(f.File, true) == nil {
		n, err = f.File.WriteAt(b, at)
		if err = errors.Join(err, setDirect(f.File, false)); !isUnsupported(err) {
			return n, err
		}
	}
	f.cached = true
	return f.writeCached(b, at)
}

// writeCached has the disk begin at once with what is much, so that a Sync soon
// after has less to wait for.
func (f *diskFile) writeCached(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	if err == nil && n >= muchData {
		hasten(f.File, at, int64(n))
	}
	return n, err
}

// reserve asks for blocks. Where there are not that many, it leaves those that
// there are to whoever writes next, and this file asks for none again.
func (f *diskFile) reserve(from, to int64) {
	f.reserved = to
	if reserve(f.File, from, to-from) != nil {
		f.release() // else the writes say so
		f.reserved = -1
	}
}

// Truncate gives back what was reserved as well.
func (f *diskFile) Truncate(size int64) error {
	f.reserved = min(f.reserved, 0)
	return f.File.Truncate(size)
}

// Close gives back what was reserved. After a crash, recovery does: it cuts
// the segment that was being written.
func (f *diskFile) Close() error { return errors.Join(f.release(), f.File.Close()) }

func (f *diskFile) release() error {
	if f.reserved <= 0 {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return f.Truncate(info.Size())
}
