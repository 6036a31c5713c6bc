package transport

import (
	"errors"
	"io"
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
	readErr    error            // out of tryRead
	told       bool             // beforeWait was called in this Read
	readable   func(fd uintptr) bool
	beforeWait func()

	quiet atomic.Bool // closing has begun: beforeWait is called no more

	// size is how much is gathered. Set once before use.
	size int

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

// Read reads ahead of the caller.
func (c *Cork) Read(p []byte) (int, error) {
	if c.raw == nil {
		c.tell()
		c.told = false
		return c.conn.Read(p)
	}
	if c.begin == c.end {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.ahead[c.begin:c.end])
	c.begin += n
	if c.begin == c.end {
		c.releaseAhead()
	}
	return n, nil
}

// fill asks the socket first and waits second, so it knows when it waits.
func (c *Cork) fill() error {
	c.told, c.readErr = false, nil
	if err := c.raw.Read(c.readable); err != nil {
		return err
	}
	if c.readErr != nil && c.readErr != io.EOF {
		return c.opError("read", c.readErr)
	}
	return c.readErr
}

// tryRead is what RawConn calls, at once and then whenever bytes arrive. It
// keeps no buffer while it waits.
func (c *Cork) tryRead(fd uintptr) bool {
	if c.ahead == nil {
		c.ahead = aheads.Get().(*[readAhead]byte)
	}
	n, again, err := readFD(fd, c.ahead[:])
	c.begin, c.end, c.readErr = 0, n, err
	if n == 0 {
		c.releaseAhead()
	}
	if again {
		c.tell()
	}
	return !again
}

func (c *Cork) tell() {
	if c.beforeWait != nil && !c.told && !c.quiet.Load() {
		c.told = true
		c.beforeWait()
	}
}

var aheads = sync.Pool{New: func() any { return new([readAhead]byte) }}

func (c *Cork) releaseAhead() {
	aheads.Put(c.ahead)
	c.ahead, c.begin, c.end = nil, 0, 0
}

// Write sends, gathers or queues p, by the mode. It takes all of p or fails for good.
func (c *Cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.mode == through && c.buf == nil {
		n, err := c.conn.Write(p)
		c.err = err
		return n, err
	}
	if err := c.put(p); err != nil {
		c.err = err
		return 0, err
	}
	return len(p), nil
}

// put appends p to the buffer and sends where the mode asks for it.
func (c *Cork) put(p []byte) error {
	if c.buf != nil && len(*c.buf)+len(p) > cap(*c.buf) {
		if err := c.spill(); err != nil {
			return err
		}
	}
	if c.buf == nil {
		c.buf = takeBuffer(c.size + recordSlack)
	}
	if len(*c.buf)+len(p) > cap(*c.buf) {
		return errFull
	}
	*c.buf = append(*c.buf, p...)
	if c.mode == through || len(*c.buf)-c.sent >= c.size {
		return c.spill()
	}
	return nil
}

// spill makes room: all of it, or in non-blocking mode what the socket takes.
func (c *Cork) spill() error {
	if c.mode != never {
		return c.flush()
	}
	_, err := c.tryFlush()
	return err
}

// Flush sends what is gathered, and waits for that until the write deadline.
func (c *Cork) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = c.flush()
	}
	return c.err
}

func (c *Cork) flush() error {
	if c.buf == nil {
		return nil
	}
	_, err := c.conn.Write((*c.buf)[c.sent:])
	c.releaseBuffer()
	return err
}

// Pending is how many bytes are gathered and not yet with the socket.
func (c *Cork) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		return 0
	}
	return len(*c.buf) - c.sent
}

// TryFlush sends what the socket takes now, and says whether that was all.
func (c *Cork) TryFlush() (done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false, c.err
	}
	done, c.err = c.tryFlush()
	return done, c.err
}

func (c *Cork) tryFlush() (bool, error) {
	if c.buf == nil {
		return true, nil
	}
	n, err := c.tryOnce((*c.buf)[c.sent:])
	c.sent += n
	if c.sent == len(*c.buf) {
		c.releaseBuffer()
		return true, err
	}
	return false, err
}

// TryWrite writes what the socket takes of p now, which may be nothing. It
// is for connections without TLS; nothing may be Pending.
func (c *Cork) TryWrite(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.tryOnce(p)
	c.err = err
	return n, err
}

func (c *Cork) tryOnce(p []byte) (int, error) {
	if c.raw == nil {
		return c.conn.Write(p)
	}
	c.try, c.tried, c.tryErr = p, 0, nil
	err := c.raw.Write(c.writable)
	c.try = nil
	if err == nil && c.tryErr != nil {
		err = c.opError("write", c.tryErr)
	}
	return c.tried, err
}

// tryWrite is what RawConn calls. It asks once and never to be called again.
func (c *Cork) tryWrite(fd uintptr) bool {
	c.tried, c.tryErr = writeFD(fd, c.try)
	return true
}

// WaitWritable returns when the socket takes bytes again, or with an error at
// the write deadline. It is noticed too when the peer has gone.
func (c *Cork) WaitWritable() error {
	if c.raw == nil {
		return nil
	}
	return c.raw.Write(c.ready)
}

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

func (c *Cork) LocalAddr() net.Addr                { return c.conn.LocalAddr() }
func (c *Cork) RemoteAddr() net.Addr               { return c.conn.RemoteAddr() }
func (c *Cork) SetDeadline(t time.Time) error      { return c.conn.SetDeadline(t) }
func (c *Cork) SetReadDeadline(t time.Time) error  { return c.conn.SetReadDeadline(t) }
func (c *Cork) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

func (c *Cork) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Buffers of the two common sizes are kept for reuse.
var (
	smallBuffers = sync.Pool{New: func() any { return newBuffer(64<<10 + recordSlack) }}
	largeBuffers = sync.Pool{New: func() any { return newBuffer(GatherSize + recordSlack) }}
)

func newBuffer(n int) *[]byte {
	b := make([]byte, 0, n)
	return &b
}

func takeBuffer(n int) *[]byte {
	switch {
	case n <= 64<<10+recordSlack:
		return smallBuffers.Get().(*[]byte)
	case n <= GatherSize+recordSlack:
		return largeBuffers.Get().(*[]byte)
	}
	return newBuffer(n)
}

func (c *Cork) releaseBuffer() {
	*c.buf = (*c.buf)[:0]
	switch cap(*c.buf) {
	case 64<<10 + recordSlack:
		smallBuffers.Put(c.buf)
	case GatherSize + recordSlack:
		largeBuffers.Put(c.buf)
	}
	c.buf, c.sent = nil, 0
}
