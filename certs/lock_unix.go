//go:build unix

package certs

import (
	"os"
	"syscall"
)

// lock keeps other processes, and other goroutines, from changing a folder
// that they lock too. A process that dies leaves no lock behind.
func lock(root *os.Root) (unlock func(), err error) {
	f, err := root.OpenFile(".lock", os.O_RDWR|os.O_CREATE, secretMode)
	if err != nil {
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
