package journal

import (
	"errors"
	"os"
)

// A diskFile is a file of the operating system, made cheap to append much to.
type diskFile struct {
	*os.File
	reserved int64 // blocks were asked for up to here; negative: no more. Owned by who writes.
}

const (
	// muchData is more than an index takes at once, in bytes, and less than a
	// chunk of records.
	muchData = 128 << 10

	// reserveAhead is for how many bytes to come blocks are asked for. Streams
	// with little to say never have any.
	reserveAhead = 8 << 20
)

// Sync leaves out what no reader needs: the file's times.
func (f *diskFile) Sync() error { return syncData(f.File) }

// WriteAt has the disk begin at once with what is much, so that a Sync soon
// after has less to wait for; and has blocks for more of it reserved behind the
// end of the file, which costs less than finding them for each write. Neither
// promises anything: what either fails at, writes and Sync say.
func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	if end := at + int64(len(p)); len(p) >= muchData && f.reserved >= 0 && end > f.reserved {
		f.reserve(at, end+reserveAhead)
	}
	n, err := f.File.WriteAt(p, at)
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
