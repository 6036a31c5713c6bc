package transport_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// tcpPair is a connection's two ends, with deadlines in case a test hangs.
func tcpPair(tb testing.TB) (a, b *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(tb, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	must(tb, err)
	d, err := ln.Accept()
	must(tb, err)
	for _, conn := range []net.Conn{c, d} {
		must(tb, conn.SetDeadline(time.Now().Add(20*time.Second)))
		tb.Cleanup(func() { conn.Close() })
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// waitUnread waits until the kernel holds n bytes for conn's reader.
func waitUnread(tb testing.TB, conn *net.TCPConn, n int) {
	tb.Helper()
	raw, err := conn.SyscallConn()
	must(tb, err)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		have := 0
		must(tb, raw.Control(func(fd uintptr) { have, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }))
		must(tb, err)
		if have >= n {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("%d of %d bytes have arrived", have, n)
		}
	}
}

func TestCorkGathersUntilFlush(t *testing.T) {
	a, b := tcpPair(t)
	cork := transport.NewCork(a, 64<<10)
	_, err := cork.Write([]byte("through"))
	must(t, err)
	waitUnread(t, b, 7)
	cork.Gather(true)
	for range 3 {
		_, err := cork.Write(noise(1000))
		must(t, err)
	}
	if cork.Pending() != 3000 {
		t.Errorf("%d bytes are pending", cork.Pending())
	}
	must(t, cork.Flush())
	waitUnread(t, b, 3007)
	for range 64 {
		_, err := cork.Write(noise(1024))
		must(t, err)
	}
	if cork.Pending() != 0 {
		t.Errorf("full, and still %d bytes pending", cork.Pending())
	}
	waitUnread(t, b, 3007+64<<10)
}

// What was gathered goes first when gathering has ended.
func TestCorkKeepsOrderAcrossModes(t *testing.T) {
	a, b := tcpPair(t)
	cork := transport.NewCork(a, 64<<10)
	want := []byte{}
	for i, mode := range []func(){
		func() { cork.Gather(true) }, func() { cork.SetNonblocking(true) }, func() { cork.Gather(false) },
		func() { cork.SetNonblocking(true) }, func() { cork.SetNonblocking(false) }, func() { must(t, cork.Flush()) },
	} {
		mode()
		piece := bytes.Repeat([]byte{byte('a' + i)}, 100)
		want = append(want, piece...)
		_, err := cork.Write(piece)
		must(t, err)
	}
	must(t, cork.CloseWrite())
	got, err := io.ReadAll(b)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// The hook is called when the socket is empty and not before; once for each wait.
func TestCorkTellsExactlyWhenItWaits(t *testing.T) {
	a, b := tcpPair(t)
	cork := transport.NewCork(b, 64<<10)
	waits := make(chan struct{}, 10)
	cork.BeforeWait(func() { waits <- struct{}{} })
	for round := range 20 {
		data := noise(50_000)
		_, err := a.Write(data)
		must(t, err)
		waitUnread(t, b, len(data))
		got := make([]byte, len(data))
		for n := 0; n < len(got); {
			m, err := cork.Read(got[n:min(n+777, len(got))])
			must(t, err)
			n += m
		}
		if len(waits) > 0 || !bytes.Equal(got, data) {
			t.Fatalf("round %d: told %d times that it waits, data equal: %v", round, len(waits), bytes.Equal(got, data))
		}
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(cork, got[:2])
			read <- err
		}()
		<-waits // it waits, and says so
		_, err = a.Write([]byte{1})
		must(t, err)
		<-waits // it waits for the second byte
		_, err = a.Write([]byte{2})
		must(t, err)
		must(t, <-read)
	}
}

func TestCorkReadDeadlineLeavesItUsable(t *testing.T) {
	a, b := tcpPair(t)
	cork := transport.NewCork(b, 64<<10)
	must(t, cork.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := cork.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	must(t, cork.SetReadDeadline(time.Time{}))
	_, err := a.Write([]byte("x"))
	must(t, err)
	if n, err := cork.Read(make([]byte, 9)); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	must(t, a.Close())
	if n, err := cork.Read(make([]byte, 9)); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// fillSocket writes until the socket takes no more, and returns what it took.
func fillSocket(tb testing.TB, cork *transport.Cork) []byte {
	tb.Helper()
	var taken []byte
	for chunk := noise(100_000); ; {
		n, err := cork.TryWrite(chunk)
		must(tb, err)
		if n == 0 {
			return taken
		}
		taken = append(taken, chunk[:n]...)
	}
}

func TestTryWriteNeverWaits(t *testing.T) {
	a, b := tcpPair(t)
	must(t, a.SetWriteBuffer(256<<10))
	cork := transport.NewCork(a, 64<<10)
	want := fillSocket(t, cork)

	must(t, cork.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	if err := cork.WaitWritable(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a full socket became writable: %v", err)
	}
	must(t, cork.SetWriteDeadline(time.Now().Add(10*time.Second)))

	all := make(chan []byte)
	go func() {
		got, _ := io.ReadAll(b)
		all <- got
	}()
	for rest := noise(3 << 20); len(rest) > 0; {
		n, err := cork.TryWrite(rest)
		must(t, err)
		want = append(want, rest[:n]...)
		if rest = rest[n:]; n == 0 {
			must(t, cork.WaitWritable())
		}
	}
	must(t, cork.CloseWrite())
	if got := <-all; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived of %d", len(got), len(want))
	}
}

func TestWaitWritableNoticesThatThePeerIsGone(t *testing.T) {
	a, b := tcpPair(t)
	cork := transport.NewCork(a, 64<<10)
	fillSocket(t, cork)
	must(t, b.SetLinger(0))
	time.AfterFunc(10*time.Millisecond, func() { b.Close() })
	for {
		if err := cork.WaitWritable(); err != nil {
			t.Fatal(err)
		}
		if _, err := cork.TryWrite([]byte{1}); err != nil {
			break
		}
	}
	if _, err := cork.TryWrite([]byte{1}); err == nil {
		t.Error("it takes bytes after a failure")
	}
}

// analyst is a TLS connection whose relay's side never waits.
func analyst(t *testing.T) (relay *tls.Conn, cork *transport.Cork, tool *tls.Conn, under *net.TCPConn) {
	t.Helper()
	ca := poiptest.NewCA(t)
	a, b := tcpPair(t)
	must(t, a.SetWriteBuffer(128<<10))
	cork = transport.NewCork(a, 64<<10)
	relay, tool = tls.Server(cork, ca.AnalystTLS()), tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- relay.Handshake() }()
	must(t, tool.Handshake())
	must(t, <-done)
	cork.SetNonblocking(true)
	return relay, cork, tool, b
}

// A relay's side that writes only when nothing is pending never waits, and
// its reader gets every byte.
func TestNonblockingTLSNeverWaits(t *testing.T) {
	relay, cork, tool, _ := analyst(t)
	var want []byte
	put := func() {
		chunk := noise(64 << 10)
		start := time.Now()
		_, err := relay.Write(chunk)
		must(t, err)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("a Write took %s", took)
		}
		want = append(want, chunk...)
	}
	full := false
	for !full { // nobody reads
		put()
		done, err := cork.TryFlush()
		must(t, err)
		full = !done
	}
	if cork.Pending() == 0 {
		t.Error("not done, and nothing pending")
	}
	all := make(chan []byte)
	go func() {
		got, err := io.ReadAll(tool)
		if err != nil {
			t.Errorf("read: %v", err)
		}
		all <- got
	}()
	for range 30 {
		for cork.Pending() > 0 {
			must(t, cork.WaitWritable())
			_, err := cork.TryFlush()
			must(t, err)
		}
		put()
	}
	cork.SetNonblocking(false)
	must(t, relay.CloseWrite())
	must(t, cork.CloseWrite())
	if got := <-all; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived of %d", len(got), len(want))
	}
}

// A reader that takes nothing cannot make the relay keep more and more.
func TestNonblockingWritesAreBounded(t *testing.T) {
	relay, cork, _, _ := analyst(t)
	for range 100 {
		if _, err := relay.Write(noise(64 << 10)); err != nil {
			if cork.Pending() > 64<<10+32<<10 {
				t.Errorf("%d bytes are pending", cork.Pending())
			}
			return
		}
	}
	t.Error("6 MiB were taken for a reader that reads nothing")
}

// Beneath something that is no socket a Cork still works, and still tells.
func TestCorkOverAPipe(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	out, in := transport.NewCork(a, 64<<10), transport.NewCork(b, 64<<10)
	told := 0
	in.BeforeWait(func() { told++ })
	go func() {
		defer out.Close()
		out.Gather(true)
		out.Write([]byte("one "))
		out.Write([]byte("two"))
		out.CloseWrite()
	}()
	got, err := io.ReadAll(in)
	if string(got) != "one two" || err != nil || told == 0 {
		t.Errorf("got %q, %v, told %d times", got, err, told)
	}
}
