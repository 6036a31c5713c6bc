package transport

import (
	"net"
	"time"
)

const (
	// servedTimeout is when the kernel gives up an accepted connection whose
	// bytes are not acknowledged. A link that is dead has to be noticed
	// within 15 s, and the kernel looks only when it retransmits.
	servedTimeout = 12 * time.Second

	// dialedTimeout is longer: the kernel counts the time in which a living
	// peer takes nothing (a window of zero) as well, and a relay may hold a
	// stream back for 30 s. Agents notice a dead link by the relay's silence.
	dialedTimeout = 40 * time.Second

	// udpBuffer is what quic-go wants for the socket's buffers, in bytes.
	udpBuffer = 7 << 20
)

// keepAlive notices a dead peer of a silent connection in as much time.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 4 * time.Second, Count: 2}

// tuneTCP sets what an accepted connection needs. Failure is no reason to
// turn a peer away: each option only makes things better.
//
// TCP_NOTSENT_LOWAT is left alone: a stream is in order anyway, so a shorter
// queue in the kernel brings no packet sooner, and costs wake-ups.
func tuneTCP(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetKeepAliveConfig(keepAlive)
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = setUserTimeout(fd, servedTimeout) })
	}
}
