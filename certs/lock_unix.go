//go:build unix

package certs

import (
	"os"
	"syscall"

	"poip/internal/owner"
)

// lock keeps other processes, and other goroutines, from changing a folder
// that they lock too. A process that dies leaves no lock behind.
func lock(root *os.Root) (unlock func(), err error) {
	f, err := root.OpenFile(".lock", os.O_RDWR|os.O_CREATE, secretMode)
	if err != nil {
		return nil, err
	}
	if err := owner.Give(f, root); err != nil { // it may be us who made it
		f.Close()
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
