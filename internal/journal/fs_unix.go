//go:build unix

package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncEntries has the entries of a folder on the disk.
func syncEntries(dir *os.File) error { return dir.Sync() }

// lockFile lasts as long as the file is open, and no longer than the process.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// IsFull says whether an error is for lack of space.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
