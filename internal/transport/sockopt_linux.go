package transport

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func setUserTimeout(fd uintptr, d time.Duration) error {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// setCongestion asks for a congestion control by name. "auto" is bbr where it
// can be had; "" leaves the system's own.
func setCongestion(fd uintptr, name string) error {
	want := name
	switch name {
	case "":
		return nil
	case "auto":
		want = "bbr"
	}
	err := unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, want)
	if err == nil || name == "auto" {
		return nil
	}
	return explainCongestion(name, err)
}

func explainCongestion(name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("congestion control %q is not allowed to us; allowed: %s; add it to sysctl net.ipv4.tcp_allowed_congestion_control, or say \"auto\"",
			name, sysctl("tcp_allowed_congestion_control"))
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("congestion control %q is not in this kernel; available: %s; load its module (modprobe tcp_%s), or say \"auto\"",
			name, sysctl("tcp_available_congestion_control"), name)
	}
	return fmt.Errorf("set congestion control %q: %w", name, err)
}

func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}

// CheckCongestion says whether a Dialer could be given this Congestion.
func CheckCongestion(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("check congestion control %q: %w", name, err)
	}
	defer unix.Close(fd)
	return setCongestion(uintptr(fd), name)
}

// congestionOf names what the kernel uses for conn.
func congestionOf(conn net.Conn) string {
	name := ""
	control(conn, func(fd uintptr) {
		name, _ = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return name
}

// udpBuffers says how large the kernel's buffers of a UDP socket are, in bytes.
func udpBuffers(conn any) (receive, send int) {
	control(conn, func(fd uintptr) {
		receive, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		send, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	})
	return receive, send
}

func control(conn any, f func(fd uintptr)) {
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(f)
		}
	}
}
