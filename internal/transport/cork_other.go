//go:build !unix

package transport

import (
	"net"
	"syscall"
	"time"
)

// Elsewhere than on Unix a Cork reads and writes as its connection does:
// BeforeWait is called before every read from the socket, and TryWrite waits.
// Agents run there, relays do not.

const (
	// looks is once: a patience waits for as long as it lasts.
	looks = 1

	// piece is how many bytes have to go within the patience.
	piece = 8 << 10
)

// send writes p by pieces: of a write that has timed out Windows does not say
// how much has gone, so it cannot be gone on with.
func (c *Cork) send(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		now := time.Now()
		c.patience.wait(now, now)
		var m int
		m, err = c.conn.Write(p[n:min(len(p), n+piece)])
		n += m
	}
	return n, err
}

func (c *Cork) queued() int { return 0 }

func rawConn(net.Conn) syscall.RawConn { return nil }

func readFD(uintptr, []byte) (n int, again bool, err error) { panic("no descriptor") }

func writeFD(uintptr, []byte) (int, error) { panic("no descriptor") }

func isWritable(uintptr) bool { return true }
