package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/transport"
)

// Chunks are how much is encrypted ahead of the socket, and so what an analyst
// who reads nothing holds in our memory. Large ones cost a quarter less
// processor time, and are for the first of a listener's analysts.
const (
	largeChunk   = transport.GatherSize
	smallChunk   = 64 << 10
	manyAnalysts = 128
)

func chunkFor(analysts int64) int {
	if analysts <= manyAnalysts {
		return largeChunk
	}
	return smallChunk
}

// An outlet is the way to one analyst, plain or TLS. Its writes never wait.
// Whoever has the subscriber's writer role may write; another goroutine reads.
type outlet struct {
	conn  net.Conn
	raw   syscall.RawConn // of conn; nil: it has none
	cork  *transport.Cork
	tls   *tls.Conn // nil on a plain listener
	chunk int       // most bytes of one write; TLS only

	// What the socket did not take of a record, from written on. It is a
	// copy, so that nothing pins the ring while the analyst makes us wait.
	rest    []byte
	written int
}

// newOutlet begins to write without waiting, after a handshake if there is one.
func newOutlet(conn net.Conn, cork *transport.Cork, encrypted *tls.Conn, chunk int) *outlet {
	cork.SetNonblocking(true)
	o := &outlet{conn: conn, cork: cork, tls: encrypted, chunk: chunk}
	if socket, ok := conn.(syscall.Conn); ok {
		o.raw, _ = socket.SyscallConn() // fails only on what is no socket
	}
	return o
}

// writable says whether the socket would take something now. Anybody may ask.
func (o *outlet) writable() bool {
	yes := false
	if o.raw == nil {
		return yes
	}
	err := o.raw.Control(func(fd uintptr) {
		ask := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(ask, 0)
		yes = err == nil && n > 0
	})
	return err == nil && yes
}

// offer writes what is taken of p right now, and returns how much that was.
// What TLS has taken may yet wait for the socket; see clear.
func (o *outlet) offer(p []byte) (int, error) {
	if o.tls == nil {
		return o.cork.TryWrite(p)
	}
	p = p[:min(len(p), o.chunk)]
	if _, err := o.tls.Write(p); err != nil {
		return 0, err
	}
	_, err := o.cork.TryFlush()
	return len(p), err
}

// keep copies the rest of a record, to be written before anything else.
func (o *outlet) keep(rest []byte) { o.rest, o.written = append(o.rest[:0], rest...), 0 }

// clear writes what is left over from earlier, and says whether nothing is.
func (o *outlet) clear() (bool, error) {
	for {
		if done, err := o.flushed(); !done || err != nil {
			return false, err
		}
		if o.written == len(o.rest) {
			o.forget()
			return true, nil
		}
		n, err := o.offer(o.rest[o.written:])
		if err != nil || n == 0 {
			return false, err
		}
		o.written += n
	}
}

// flushed says whether the socket has all that TLS has made.
func (o *outlet) flushed() (bool, error) {
	if o.tls == nil {
		return true, nil
	}
	return o.cork.TryFlush()
}

// forget empties the rest, and frees the room that large records took.
func (o *outlet) forget() {
	o.rest, o.written = o.rest[:0], 0
	if cap(o.rest) > 4<<10 {
		o.rest = nil
	}
}

// finish says that this was all. The analyst's own end is waited for
// elsewhere.
func (o *outlet) finish(by time.Time) error {
	o.cork.SetNonblocking(false)
	if o.tls == nil {
		return o.cork.CloseWrite()
	}
	if err := o.cork.SetWriteDeadline(by); err != nil {
		return err
	}
	return errors.Join(o.cork.Flush(), o.tls.CloseWrite(), o.cork.CloseWrite())
}

// drain reads and drops what the analyst sends. It returns nil when the
// analyst has ended its side, after which it may go on reading ours for ever.
func (o *outlet) drain() error {
	if o.tls != nil {
		if err := discard(o.tls); err != nil {
			return err
		}
	}
	return discard(o.conn)
}

func discard(from net.Conn) error {
	var scratch [1 << 10]byte
	for {
		switch _, err := from.Read(scratch[:]); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// watch waits, after the analyst has ended its side, until it is gone
// altogether: until it answers a keepalive probe or a write by a reset.
func (o *outlet) watch() error {
	if o.raw == nil {
		return errGone
	}
	return o.raw.Read(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return err != nil || code != 0
	})
}
