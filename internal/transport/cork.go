package transport

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// recordSlack is more than one TLS record and the overhead of the others,
	// so that a whole Write of the gathered size always fits.
	recordSlack = 24 << 10

	// readAhead is how much is asked of the socket at a time.
	readAhead = 128 << 10
)

// errFull comes of a peer that takes nothing and makes TLS answer it all the
// same (key updates), or of a caller that writes while bytes are pending.
var errFull = errors.New("peer takes nothing, and the buffer for it is full")

// Cork is the net.Conn beneath a tls.Conn. crypto/tls writes every 16 KiB
// record by a call of its own; a Cork that gathers sends many of them by one.
// It starts out passing everything straight through, as handshakes need it.
//
// In non-blocking mode it serves analysts: a Write only gathers, TryFlush
// sends what the socket takes now, and the rest stays Pending. Beneath plain
// connections TryWrite does the same without a buffer. Only one goroutine at
// a time may flush, try or wait; the caller sees to that.
//
// It holds buffers only while something is in them.
type Cork struct {
	conn net.Conn
	raw  syscall.RawConn // nil where there is no descriptor: not a socket, or not Unix

	// Owned by the goroutine that reads.
	ahead      *[readAhead]byte // nil while empty
	begin, end int              // of what ahead holds
	arrived    uint64           // bytes
	patient    bool             // tryRead shall wait for bytes
	again      bool             // it found none, and was not patient
	readErr    error            // out of tryRead
	readable   func(fd uintptr) bool
	beforeWait func()

	quiet atomic.Bool // closing has begun: beforeWait is called no more

	// size is how much is gathered. Set once before use.
	size int

	patience patience // with the socket

	mu       sync.Mutex
	mode     mode    // guarded by mu
	buf      *[]byte // guarded by mu; nil while empty
	sent     int     // guarded by mu; of buf, what the socket has
	err      error   // guarded by mu; the first failure, which stays
	try      []byte  // guarded by mu; what tryWrite shall write
	tried    int     // guarded by mu; what it wrote
	tryErr   error   // guarded by mu
	writable func(fd uintptr) bool
	ready    func(fd uintptr) bool
}

type mode int

const (
	through mode = iota // a Write goes out at once
	gather              // a Write waits for Flush, or for size bytes
	never               // never waits: non-blocking
)

// NewCork puts a Cork on conn. Size is the most plaintext that is written
// between two flushes; it decides how much memory a peer that takes nothing
// can hold here. 64 KiB and GatherSize are kept in pools.
func NewCork(conn net.Conn, size int) *Cork {
	c := &Cork{conn: conn, raw: rawConn(conn), size: size}
	c.patience.out, c.patience.queued = conn, c.queued
	c.readable, c.writable, c.ready = c.tryRead, c.tryWrite, isWritable
	return c
}

// Gather makes Write gather until Flush, or ends that.
func (c *Cork) Gather(on bool) { c.setMode(on, gather) }

// SetNonblocking makes Write never wait, or ends that. What is pending then
// goes out, in order, with the next Write or Flush.
func (c *Cork) SetNonblocking(on bool) { c.setMode(on, never) }

func (c *Cork) setMode(on bool, m mode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = through
	if on {
		c.mode = m
	}
}

// BeforeWait has f called by the goroutine that reads, whenever a Read finds
// the socket empty and is about to wait.
func (c *Cork) BeforeWait(f func()) { c.beforeWait = f }

// CloseWrite sends a FIN, after what is pending.
func (c *Cork) CloseWrite() error {
	if err := c.Flush(); err != nil {
		return err
	}
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection. What is pending is lost; Flush before.
func (c *Cork) Close() error { return c.conn.Close() }

// Abort closes the connection with a RST, so that the kernel forgets it at once.
func (c *Cork) Abort() error {
	if tcp, ok := c.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only where the connection is gone already
	}
	return c.conn.Close()
}

// SetWritePatience is that of Conn.
func (c *Cork) SetWritePatience(d time.Duration) error { return c.patience.set(d) }

// Arrived is that of Conn.
func (c *Cork) Arrived() uint64 { return c.arrived }

func (c *Cork) LocalAddr() net.Addr               { return c.conn.LocalAddr() }
func (c *Cork) RemoteAddr() net.Addr              { return c.conn.RemoteAddr() }
func (c *Cork) SetDeadline(t time.Time) error     { return c.patience.end(c.conn.SetDeadline, t) }
func (c *Cork) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }
func (c *Cork) SetWriteDeadline(t time.Time) error {
	return c.patience.end(c.conn.SetWriteDeadline, t)
}

func (c *Cork) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
