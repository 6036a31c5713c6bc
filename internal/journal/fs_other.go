//go:build !linux

package journal

import "os"

// syncData has the data of a file, and its length, on the disk.
func syncData(f *os.File) error { return f.Sync() }
