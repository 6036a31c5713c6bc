//go:build !linux

package journal

import (
	"errors"
	"io/fs"
	"os"
)

// syncData has the data of a file, and its length, on the disk.
func syncData(f *os.File) error { return f.Sync() }

// hasten does nothing: there is no way to ask without waiting.
func hasten(*os.File, int64, int64) {}

// reserve does nothing: elsewhere a file would grow by it.
func reserve(*os.File, int64, int64) error { return nil }

// hasRoomBehind: nothing was reserved.
func hasRoomBehind(fs.FileInfo) bool { return false }

// setDirect cannot.
func setDirect(*os.File, bool) error { return errors.ErrUnsupported }

func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

func newChunk() []byte { return aligned(chunkLen) }

func freeChunk([]byte) {}
