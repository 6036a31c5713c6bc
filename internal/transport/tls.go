package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// tlsConn is a Conn over TLS on TCP.
type tlsConn struct {
	tls        *tls.Conn
	cork       *Cork
	congestion string

	closing  sync.Once
	closeErr error // owned by closing
}

// newTLSConn takes over after the handshake.
func newTLSConn(conn *tls.Conn, cork *Cork, congestion string) *tlsConn {
	cork.Gather(true)
	return &tlsConn{tls: conn, cork: cork, congestion: congestion}
}

func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.tls.Read(p)
	if n > 0 {
		return n, nil
	}
	return 0, explainPeer(err)
}

func (c *tlsConn) Write(p []byte) (int, error) { return c.tls.Write(p) }

func (c *tlsConn) Flush() error { return c.cork.Flush() }

func (c *tlsConn) Close() error {
	c.closing.Do(func() { c.closeErr = c.shut() })
	return c.closeErr
}

// shut says close_notify and FIN, then waits for the peer's: a socket that is
// closed while it holds unread bytes is reset, and takes with it what was
// still on its way out.
func (c *tlsConn) shut() error {
	c.cork.quiet.Store(true)
	c.tls.SetWriteDeadline(time.Now().Add(lingerTime)) // frees whoever waits in Flush, too
	c.cork.Gather(false)
	err := errors.Join(c.cork.Flush(), c.tls.CloseWrite(), c.cork.CloseWrite())
	if err != nil {
		c.cork.Abort()
		return err
	}
	c.tls.SetReadDeadline(time.Now().Add(lingerTime))
	drain(c.tls)
	return c.cork.Close()
}

// drain reads until the peer has ended, or the deadline.
func drain(r io.Reader) {
	var scratch [4 << 10]byte
	for {
		if _, err := r.Read(scratch[:]); err != nil {
			return
		}
	}
}

func (c *tlsConn) Abort() error {
	c.cork.quiet.Store(true)
	err := c.cork.Abort()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (c *tlsConn) SetReadDeadline(t time.Time) error  { return c.cork.SetReadDeadline(t) }
func (c *tlsConn) SetWriteDeadline(t time.Time) error { return c.cork.SetWriteDeadline(t) }
func (c *tlsConn) SetWritePatience(d time.Duration) error {
	return c.cork.SetWritePatience(d)
}
func (c *tlsConn) Arrived() uint64          { return c.cork.Arrived() }
func (c *tlsConn) LocalAddr() net.Addr      { return c.cork.LocalAddr() }
func (c *tlsConn) RemoteAddr() net.Addr     { return c.cork.RemoteAddr() }
func (c *tlsConn) TLS() tls.ConnectionState { return c.tls.ConnectionState() }
func (c *tlsConn) Network() string          { return "tls" }
func (c *tlsConn) Congestion() string       { return c.congestion }
func (c *tlsConn) BeforeWait(f func())      { c.cork.BeforeWait(f) }
