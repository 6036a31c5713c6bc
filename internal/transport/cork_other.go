//go:build !unix

package transport

import (
	"net"
	"syscall"
)

// Elsewhere than on Unix a Cork reads and writes as its connection does:
// BeforeWait is called before every read from the socket, and TryWrite waits.
// Agents run there, relays do not.

func rawConn(net.Conn) syscall.RawConn { return nil }

func readFD(uintptr, []byte) (n int, again bool, err error) { panic("no descriptor") }

func writeFD(uintptr, []byte) (int, error) { panic("no descriptor") }

func isWritable(uintptr) bool { return true }
