//go:build !linux

package transport

import (
	"fmt"
	"net"
	"time"
)

func setUserTimeout(uintptr, time.Duration) error { return nil }

func setCongestion(_ uintptr, name string) error { return CheckCongestion(name) }

// CheckCongestion says whether a Dialer could be given this Congestion.
func CheckCongestion(name string) error {
	if name == "" || name == "auto" {
		return nil
	}
	return fmt.Errorf("congestion control %q: it can be chosen on Linux only; say \"auto\"", name)
}

func congestionOf(net.Conn) string { return "" }

func udpBuffers(any) (receive, send int) { return udpBuffer, udpBuffer }
