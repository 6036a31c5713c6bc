package transport

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func option(t *testing.T, conn net.Conn, level, name int) int {
	t.Helper()
	value := -1
	control(conn, func(fd uintptr) {
		var err error
		if value, err = unix.GetsockoptInt(int(fd), level, name); err != nil {
			t.Errorf("getsockopt: %v", err)
		}
	})
	return value
}

// A dead peer is noticed within 15 s at the relay; the dialing side gives a
// relay that holds a stream back for 30 s more time than that.
func TestSocketOptions(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := Dialer{TLS: &tls.Config{}, Congestion: "reno"}
	dialed, err := d.dialTCP(t.Context(), netip.MustParseAddrPort(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	served, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	tuneTCP(served)
	for what, conn := range map[string]net.Conn{"dialed": dialed, "served": served} {
		timeout := time.Duration(option(t, conn, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)) * time.Millisecond
		if what == "served" && timeout != 12*time.Second || what == "dialed" && timeout != 40*time.Second {
			t.Errorf("%s: user timeout %s", what, timeout)
		}
		idle := option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) +
			option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)*option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 || idle > 15 {
			t.Errorf("%s: a silent dead peer is noticed after %d s", what, idle)
		}
		if option(t, conn, unix.IPPROTO_TCP, unix.TCP_NODELAY) != 1 {
			t.Errorf("%s: small packets are delayed", what)
		}
	}
	if got := congestionOf(dialed); got != "reno" {
		t.Errorf("congestion control %q", got)
	}
}

func TestCongestionByName(t *testing.T) {
	for _, name := range []string{"", "auto", "reno"} {
		if err := CheckCongestion(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	err := CheckCongestion("warp9")
	for _, word := range []string{"warp9", "reno", "auto", "modprobe"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%v does not say %q", err, word)
		}
	}
	if _, err := (&Dialer{Congestion: "warp9"}).dialTCP(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")); err == nil || !strings.Contains(err.Error(), "available") {
		t.Errorf("dialed with it: %v", err)
	}
}
