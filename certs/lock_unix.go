//go:build unix

package certs

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"poip/internal/owner"
)

// lock keeps other processes, and other goroutines, from changing a folder
// that they lock too. It waits so long for them, since one may have been
// stopped. A process that dies leaves no lock behind.
func lock(root *os.Root, most time.Duration) (unlock func(), err error) {
	f, err := root.OpenFile(".lock", os.O_RDWR|os.O_CREATE, secretMode)
	if err != nil {
		return nil, err
	}
	err = owner.Give(f, root) // it may be us who made it
	if err == nil {
		err = acquire(f, most)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// acquire asks again and again: a call that waits could not be called off.
func acquire(f *os.File, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("another command, or the relay, holds it: if `jobs` lists one that was stopped, let it go on")
		case <-time.After(rand.N(20 * time.Millisecond)): // #nosec G404 -- a pause is no secret
		}
	}
}
