package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// syncEntries does nothing: NTFS journals the entries of its folders, and
// there is no way to wait for that.
func syncEntries(*os.File) error { return nil }

// lockFile lasts as long as the file is open, and no longer than the process.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
}

// IsFull says whether an error is for lack of space.
func IsFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
