package transport

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

// A Peer is at the other end of a QUIC connection, whatever streams it has.
type Peer struct {
	conn *quic.Conn
	stop func() // takes no more streams
}

// TLS is the state of the handshake, as that of each Conn is.
func (p *Peer) TLS() tls.ConnectionState { return p.conn.ConnectionState().TLS }

func (p *Peer) RemoteAddr() net.Addr { return p.conn.RemoteAddr() }

// End takes no more streams. The connection is closed with the last one that is
// there, and soon in any case.
func (p *Peer) End() {
	p.stop()
	time.AfterFunc(lingerTime, func() { p.conn.CloseWithError(0, "") })
}
