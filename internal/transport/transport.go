// Package transport carries byte streams between agents and relays: TLS over
// TCP, or streams of a shared QUIC connection. Above it the two look alike,
// and no other package knows quic-go.
//
// An agent's Dialer opens a Conn to an Endpoint; a relay's ServeTLS and
// ServeQUIC accept them. Everything about trust is in the *tls.Config that
// both are handed; a peer which has not yet proven itself is held to a
// deadline and to a bounded number of places.
//
// Beneath TLS lies the Cork, our own net.Conn: it gathers records into few
// large writes, reads ahead in large pieces, and knows when a Read has to
// wait. Relays put it beneath their analysts as well, where it writes
// without ever waiting.
package transport

import (
	"crypto/tls"
	"net"
	"time"
)

// ALPN names our protocol in the TLS handshake.
const ALPN = "poip/1"

// ALPNJoin names the protocol by which a sensor gets its first certificate.
const ALPNJoin = "poip-enroll/1"

// DefaultPort is where relays take streams in, over TCP and UDP.
const DefaultPort = 57011

// GatherSize is how many bytes a Conn gathers before it sends by itself.
const GatherSize = 256 << 10

// Conn is one byte stream to a peer, over TLS on TCP or on QUIC. One
// goroutine may read while another writes; Close, Abort and the deadlines may
// be called by any.
type Conn interface {
	// Read returns what has arrived, at least one byte. It does not return an
	// error together with bytes.
	Read(p []byte) (int, error)

	// Write gathers p, and sends by itself when GatherSize is reached. After
	// an error the Conn is of no more use for writing.
	Write(p []byte) (int, error)

	// Flush sends what Write has gathered.
	Flush() error

	// Close ends the stream in order: everything written is sent, the peer
	// sees a clean end of file, and what it still sends is drained for a
	// short while so that nothing underway to it is lost.
	Close() error

	// Abort ends the stream at once; what is underway may be lost.
	Abort() error

	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error

	// SetWritePatience has a Write or Flush fail, with os.ErrDeadlineExceeded,
	// when nothing could be written for so long, however long it takes as a
	// whole. It takes the place of the write deadline, and any that is set later
	// takes its place. The goroutine that writes calls it.
	SetWritePatience(d time.Duration) error

	// Arrived is how many bytes have come from the peer. It may grow although
	// Read returns none: TLS waits for a whole record. It is for the goroutine
	// that reads.
	Arrived() uint64

	LocalAddr() net.Addr
	RemoteAddr() net.Addr

	// TLS is the state of the handshake. The peer's certificates in it are verified.
	TLS() tls.ConnectionState

	// Network is "tls" or "quic".
	Network() string

	// Congestion names the congestion control that the sending side uses.
	Congestion() string

	// BeforeWait has f called, by the goroutine that reads, whenever a Read
	// is about to wait for the network. Over TLS that is exact; over QUIC f
	// may be called although bytes are there already. It is set before the
	// first Read, or by the goroutine that reads. f must neither Read from
	// the Conn nor Close it; it may write, and Abort.
	BeforeWait(f func())
}

const (
	// handshakeTimeout bounds a handshake at either end, and a dial as a whole.
	handshakeTimeout = 10 * time.Second

	// trialTimeout bounds a connection whose peer shows who it is only in
	// conversation.
	trialTimeout = 30 * time.Second

	// streamTimeout is how long a QUIC connection may be of no use. Agents open
	// a stream at once, and close the connection with the last one.
	streamTimeout = 30 * time.Second

	// lingerTime bounds how long Close waits to be rid of what is gathered,
	// and then for the peer's own end. It fits twice into the five seconds in
	// which a relay has to exit.
	lingerTime = 2 * time.Second
)
