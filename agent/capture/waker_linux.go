package capture

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// waker waits for descriptors, and stops waiting when a context ends.
type waker struct {
	fd      int // an eventfd, readable from when the context ended
	release func()
}

func newWaker(ctx context.Context) (*waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 1}) // not 0, in either byte order
	})
	return &waker{fd, func() {
		if !stop() {
			<-woken // it must not write to a descriptor that is somebody else's by then
		}
		unix.Close(fd)
	}}, nil
}

// forever is a timeout for wait.
const forever = time.Duration(-1)

// wait returns when one of the descriptors is ready, the context has ended or
// the timeout is over. fds[0] is for the waker itself.
func (w *waker) wait(fds []unix.PollFd, timeout time.Duration) error {
	fds[0] = unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
	var limit *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		limit = &ts
	}
	_, err := unix.Ppoll(fds, limit, nil)
	if err == unix.EINTR { // the caller looks and comes again
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return nil
}
