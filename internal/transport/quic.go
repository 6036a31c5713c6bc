package transport

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// quicConfig is the same at both ends; the relay adds how many streams it takes.
//
// A stream has room for 500 Mbit/s over a round trip of 100 ms: 6.25 MB in
// flight, and quic-go announces more room when a quarter of a window is used.
func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout / 2, // the whole handshake may take twice this
		MaxIdleTimeout:                 15 * time.Second,
		KeepAlivePeriod:                5 * time.Second,
		InitialStreamReceiveWindow:     1 << 20,
		MaxStreamReceiveWindow:         12 << 20,
		InitialConnectionReceiveWindow: 2 << 20,
		MaxConnectionReceiveWindow:     24 << 20,
		MaxIncomingStreams:             -1, // none
		MaxIncomingUniStreams:          -1,
	}
}

// aborted is the code of streams that were ended at once.
const aborted quic.StreamErrorCode = 1

// streamReadAhead is how much is asked of a stream at a time, in bytes.
const streamReadAhead = 64 << 10

// quicConn is a Conn over one stream of a QUIC connection.
type quicConn struct {
	stream  *quic.Stream
	conn    *quic.Conn
	release func() // gives the connection back

	// Owned by the goroutine that reads.
	beforeWait func()
	arrived    uint64 // bytes
	ahead      []byte // what was read ahead; a part of buffer
	buffer     []byte // made by the first short Read

	quiet atomic.Bool // closing has begun: beforeWait is called no more

	patience patience // with the stream

	mu  sync.Mutex // held while the stream is written to: quic-go wants no Close then
	buf *[]byte    // guarded by mu; what Write has gathered, nil while empty
	err error      // guarded by mu; the first failure, or that it is closed

	closing  sync.Once
	closeErr error // owned by closing
	released sync.Once
}

func newQUICConn(conn *quic.Conn, stream *quic.Stream, release func()) *quicConn {
	c := &quicConn{conn: conn, stream: stream, release: release}
	c.patience.out, c.patience.queued = stream, func() int { return 0 }
	return c
}

// Read takes long reads straight from the stream, and reads ahead for short ones.
func (c *quicConn) Read(p []byte) (int, error) {
	if len(c.ahead) == 0 {
		if c.beforeWait != nil && !c.quiet.Load() {
			c.beforeWait()
		}
		if len(p) >= streamReadAhead {
			return c.readStream(p)
		}
		if c.buffer == nil {
			c.buffer = make([]byte, streamReadAhead)
		}
		n, err := c.readStream(c.buffer)
		if n == 0 {
			return 0, err
		}
		c.ahead = c.buffer[:n]
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	return n, nil
}

// readStream holds an error back while there are bytes; the stream says it again.
func (c *quicConn) readStream(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.arrived += uint64(n)
	if n > 0 {
		return n, nil
	}
	return 0, explainPeer(err)
}

func (c *quicConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for rest := p; len(rest) > 0 && c.err == nil; {
		rest = rest[c.put(rest):]
	}
	if c.err != nil {
		return 0, c.err
	}
	return len(p), nil
}

// put gathers some of p, or sends it as it is where that saves the copy.
func (c *quicConn) put(p []byte) int {
	if c.buf == nil && len(p) >= GatherSize {
		c.send(p)
		return len(p)
	}
	if c.buf == nil {
		c.buf = largeBuffers.Get().(*[]byte)
	}
	n := min(len(p), GatherSize-len(*c.buf))
	*c.buf = append(*c.buf, p[:n]...)
	if len(*c.buf) == GatherSize {
		c.flush()
	}
	return n
}

func (c *quicConn) send(p []byte) {
	if _, err := c.patience.write(p); err != nil {
		c.err = explainPeer(err)
	}
}

func (c *quicConn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
	return c.err
}

func (c *quicConn) flush() {
	if c.buf == nil {
		return
	}
	if c.err == nil {
		c.send(*c.buf)
	}
	*c.buf = (*c.buf)[:0]
	largeBuffers.Put(c.buf)
	c.buf = nil
}

func (c *quicConn) Close() error {
	c.closing.Do(func() { c.closeErr = c.shut() })
	return c.closeErr
}

// shut ends the stream and waits for the peer to end its own: only by that we
// know that all has arrived, and that the connection may be closed.
func (c *quicConn) shut() error {
	defer c.released.Do(c.release)
	c.quiet.Store(true)
	c.SetWriteDeadline(time.Now().Add(lingerTime)) // frees whoever waits in Flush, too
	if err := c.finish(); err != nil {
		c.cancel()
		return err
	}
	c.stream.SetReadDeadline(time.Now().Add(lingerTime))
	drain(c.stream)
	c.stream.CancelRead(aborted)
	return nil
}

func (c *quicConn) finish() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
	if c.err != nil {
		return c.err
	}
	c.err = net.ErrClosed
	return c.stream.Close()
}

func (c *quicConn) cancel() {
	c.stream.CancelWrite(aborted)
	c.stream.CancelRead(aborted)
}

func (c *quicConn) Abort() error {
	c.quiet.Store(true)
	c.cancel()
	c.released.Do(c.release)
	return nil
}

func (c *quicConn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }
func (c *quicConn) SetWriteDeadline(t time.Time) error {
	return c.patience.end(c.stream.SetWriteDeadline, t)
}
func (c *quicConn) SetWritePatience(d time.Duration) error { return c.patience.set(d) }
func (c *quicConn) Arrived() uint64                        { return c.arrived }
func (c *quicConn) LocalAddr() net.Addr                    { return c.conn.LocalAddr() }
func (c *quicConn) RemoteAddr() net.Addr                   { return c.conn.RemoteAddr() }
func (c *quicConn) TLS() tls.ConnectionState               { return c.conn.ConnectionState().TLS }
func (c *quicConn) Network() string                        { return "quic" }
func (c *quicConn) BeforeWait(f func())                    { c.beforeWait = f }

// Congestion is what quic-go has, without a choice.
func (c *quicConn) Congestion() string { return "reno" }

// quicTransport puts QUIC on a socket.
func quicTransport(pc net.PacketConn) *quic.Transport {
	// quic-go prints past our log what checkBuffers logs.
	os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	return &quic.Transport{Conn: pc}
}

var buffersChecked sync.Once

// checkBuffers says, once, when the kernel gave less than quic-go asked for.
// It is called when quic-go has taken the socket over.
func checkBuffers(pc net.PacketConn, log *slog.Logger) {
	receive, send := udpBuffers(pc)
	if receive >= udpBuffer && send >= udpBuffer {
		return
	}
	buffersChecked.Do(func() {
		log.Warn("kernel keeps the UDP buffers small; QUIC may lose packets under load",
			"receive_bytes", receive, "send_bytes", send, "wanted_bytes", udpBuffer,
			"remedy", "sysctl -w net.core.rmem_max=7340032 net.core.wmem_max=7340032")
	})
}
