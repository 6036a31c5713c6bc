//go:build unix

package capture

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// polled is a blocking file that is read only when it has something to say.
type polled struct {
	ctx  context.Context
	file *os.File
	raw  syscall.RawConn
	wake *os.File // readable when ctx has ended
}

// pollable makes a polled, or nil of what is no file.
func pollable(ctx context.Context, in io.Reader) (io.Reader, func(), error) {
	file, ok := in.(*os.File)
	if !ok {
		return nil, nil, nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	wake, end, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	stop := context.AfterFunc(ctx, func() { end.Close() })
	undo := func() {
		stop()
		end.Close()
		wake.Close()
	}
	return &polled{ctx, file, raw, wake}, undo, nil
}

func (p *polled) Read(b []byte) (int, error) {
	if err := p.wait(); err != nil {
		return 0, err
	}
	return p.file.Read(b)
}

// wait returns when a read of the file would not block.
func (p *polled) wait() (err error) {
	wake, err := p.wake.SyscallConn()
	if err != nil {
		return err
	}
	outer := p.raw.Control(func(fd uintptr) {
		inner := wake.Control(func(wakeFD uintptr) { err = p.poll(int32(fd), int32(wakeFD)) })
		if inner != nil {
			err = inner
		}
	})
	if outer != nil {
		return outer
	}
	return err
}

func (p *polled) poll(fd, wakeFD int32) error {
	fds := []unix.PollFd{{Fd: fd, Events: unix.POLLIN}, {Fd: wakeFD, Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case p.ctx.Err() != nil:
			return p.ctx.Err()
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case fds[0].Revents != 0:
			return nil
		}
	}
}
