//go:build unix

package transport

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// looks is how often a patience looks for progress before it is at its end.
const looks = 3

// send writes all of p, for as long as the patience lasts.
func (c *Cork) send(p []byte) (int, error) { return c.patience.write(p) }

// queued is how many bytes the kernel holds that the peer has not acknowledged. A
// socket that is full takes more only when much of that has gone, which on a
// slow link may be minutes later.
func (c *Cork) queued() int {
	n := 0
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	}
	return n
}

// rawConn gives access to the descriptor beneath conn, or nil.
func rawConn(conn net.Conn) syscall.RawConn {
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// readFD reads once. Again means that there is nothing yet.
func readFD(fd uintptr, p []byte) (n int, again bool, err error) {
	for {
		n, err := unix.Read(int(fd), p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, true, nil
		case err != nil:
			return 0, false, os.NewSyscallError("read", err)
		case n == 0:
			return 0, false, io.EOF
		}
		return n, false, nil
	}
}

// writeFD writes once, possibly nothing.
func writeFD(fd uintptr, p []byte) (int, error) {
	for {
		n, err := unix.Write(int(fd), p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, os.NewSyscallError("write", err)
		}
		return n, nil
	}
}

// isWritable asks, and by asking makes the kernel tell when it changes.
func isWritable(fd uintptr) bool {
	ask := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(ask[:], 0)
		if err == unix.EINTR {
			continue
		}
		return err != nil || n > 0
	}
}
