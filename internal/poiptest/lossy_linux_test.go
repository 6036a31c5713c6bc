package poiptest

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"testing"
	"time"
)

func newTestLink(t *testing.T, cfg LossyConfig) *LossyLink {
	t.Helper()
	l, err := NewLossyLink(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echoOnFar answers every datagram that comes across the link.
func echoOnFar(t *testing.T, l *LossyLink) *net.UDPConn {
	t.Helper()
	far, err := net.ListenUDP("udp", &net.UDPAddr{IP: l.Far.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := far.ReadFromUDP(buf)
			if err != nil {
				return
			}
			far.WriteToUDP(buf[:n], from)
		}
	}()
	near, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: l.DialFar.AsSlice(), Port: far.LocalAddr().(*net.UDPAddr).Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	return near
}

// returns sends count datagrams at some distance and counts the answers.
func returns(t *testing.T, near *net.UDPConn, count int) int {
	t.Helper()
	go func() {
		for i := range count {
			near.Write([]byte{byte(i >> 8), byte(i)})
			time.Sleep(100 * time.Microsecond)
		}
	}()
	buf, back := make([]byte, 64), 0
	for back < count {
		near.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := near.Read(buf); err != nil {
			break
		}
		back++
	}
	return back
}

// onLossyLink runs body in a namespace. On some machines only root may open TUN
// devices; there, everybody else has to be told just that.
func onLossyLink(t *testing.T, body func(*testing.T)) {
	RunInNetns(t, func() {
		device, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			device.Close()
			body(t)
			return
		}
		if _, refused := NewLossyLink(LossyConfig{}); RealRoot() || !errors.Is(refused, fs.ErrPermission) {
			t.Errorf("%v, and a link without it: %v", err, refused)
		}
	})
}

func TestLossyLinkDelaysAndLoses(t *testing.T) {
	onLossyLink(t, lossyLinkDelaysAndLoses)
}

func lossyLinkDelaysAndLoses(t *testing.T) {
	l := newTestLink(t, LossyConfig{RTT: 40 * time.Millisecond})
	near := echoOnFar(t, l)

	start := time.Now()
	if back := returns(t, near, 1); back != 1 {
		t.Fatalf("no answer across a good link: %+v", l.Stats(ToFar))
	}
	if took := time.Since(start); took < 40*time.Millisecond || took > 60*time.Millisecond {
		t.Errorf("round trip took %v, want 40 ms", took)
	}
	if back := returns(t, near, 500); back != 500 {
		t.Errorf("%d of 500 came back across a good link", back)
	}
	l.SetLoss(0.5)
	if back := returns(t, near, 500); back < 60 || back > 190 {
		t.Errorf("%d of 500 came back; half lost each way leaves about 125", back)
	}
}

func TestLossyLinkCut(t *testing.T) {
	onLossyLink(t, lossyLinkCut)
}

func lossyLinkCut(t *testing.T) {
	l := newTestLink(t, LossyConfig{RTT: 2 * time.Millisecond})
	near := echoOnFar(t, l)
	cases := []struct {
		name    string
		do      func()
		back    int
		arrived uint64
	}{
		{"whole", func() {}, 20, 20},
		{"cut", func() { l.SetDown(true) }, 0, 0},
		{"one way", func() { l.SetOneWay(ToFar, false) }, 0, 20},
		{"mended", func() { l.SetDown(false) }, 20, 20},
	}
	for _, c := range cases {
		c.do()
		before := l.Stats(ToFar).Delivered
		if back := returns(t, near, 20); back != c.back {
			t.Errorf("%s: %d of 20 came back, want %d", c.name, back, c.back)
		}
		if got := l.Stats(ToFar).Delivered - before; got != c.arrived {
			t.Errorf("%s: %d of 20 arrived, want %d", c.name, got, c.arrived)
		}
	}
}

func TestLossyLinkReorders(t *testing.T) {
	onLossyLink(t, lossyLinkReorders)
}

func lossyLinkReorders(t *testing.T) {
	l := newTestLink(t, LossyConfig{RTT: 16 * time.Millisecond, Reorder: 0.2})
	near := echoOnFar(t, l)
	go func() {
		for i := range 200 {
			near.Write([]byte{byte(i)})
			time.Sleep(100 * time.Microsecond)
		}
	}()
	buf, last, overtaken := make([]byte, 64), -1, 0
	for range 200 {
		near.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := near.Read(buf); err != nil {
			t.Fatal(err)
		}
		if int(buf[0]) < last {
			overtaken++
		}
		last = max(last, int(buf[0]))
	}
	if overtaken == 0 {
		t.Error("all packets came back in order")
	}
}

func TestLossyLinkCarriesTCPAtItsBandwidth(t *testing.T) {
	onLossyLink(t, lossyLinkCarriesTCPAtItsBandwidth)
}

func lossyLinkCarriesTCPAtItsBandwidth(t *testing.T) {
	l := newTestLink(t, LossyConfig{Bandwidth: 100e6, RTT: 4 * time.Millisecond, Queue: 1 << 20})
	ln, err := net.Listen("tcp", net.JoinHostPort(l.Far.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const amount = 4 << 20
	go func() {
		c, err := net.Dial("tcp", net.JoinHostPort(l.DialFar.String(), port(ln)))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		c.Write(make([]byte, amount))
	}()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != amount {
		t.Fatalf("%d bytes of %d: %v", n, amount, err)
	}
	if rate := float64(n) * 8 / time.Since(start).Seconds(); rate > 110e6 || rate < 40e6 {
		t.Errorf("%.0f Mbit/s across 100 Mbit/s", rate/1e6)
	}
}

func port(ln net.Listener) string {
	_, p, _ := net.SplitHostPort(ln.Addr().String())
	return p
}

func TestCrossAddressesKeepsChecksums(t *testing.T) {
	header := []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 3, 1, 198, 19, 3, 2}
	before := sum(header)
	if !crossAddresses(header) {
		t.Fatal("not recognized")
	}
	if sum(header) != before {
		t.Errorf("sum %x, was %x", sum(header), before)
	}
	if string(header[12:]) != string([]byte{198, 18, 3, 2, 198, 19, 3, 1}) {
		t.Errorf("addresses %v", header[12:])
	}
	if crossAddresses(header) {
		t.Error("crossed a second time")
	}
}

// sum is the Internet checksum's sum, RFC 1071.
func sum(b []byte) (s uint32) {
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return s
}
