package capture

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/poiptest"
	"poip/internal/wire"
)

// packet is one that a recorder was given.
type packet struct {
	at       time.Time
	original int
	data     []byte
	lost     uint64 // before it
}

// recorder is a Sink that remembers, for tests.
type recorder struct {
	mu       sync.Mutex
	info     Info
	packets  []packet
	lost     uint64
	restarts int // gaps of unknown count
	empty    int
	pending  int       // packets since the last Flush
	flush    time.Time // of the last one that there was something for
}

func (r *recorder) Packet(sec, nsec, original uint32, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packets = append(r.packets, packet{time.Unix(int64(sec), int64(nsec)), int(original), bytes.Clone(data), r.lost})
	r.pending++
}

func (r *recorder) Lost(n uint64, cause wire.Cause) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cause == wire.CauseCaptureRestart && n == 0 {
		r.restarts++
		return
	}
	if cause != wire.CauseKernelDrop {
		panic("lost by " + cause.String())
	}
	r.lost += n
}

func (r *recorder) Empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.empty++
}

func (r *recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending > 0 {
		r.flush = time.Now()
	}
	r.pending = 0
}

func (r *recorder) lastFlush() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flush
}

// flushed are the packets so far, if all of them were flushed.
func (r *recorder) flushed() []packet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packets[:len(r.packets)-r.pending]
}

// running is a capture under test.
type running struct {
	*recorder
	log    *poiptest.Log
	cancel context.CancelFunc
	done   chan error
}

// startCapture runs a capture until stop, or the end of the test. It returns
// when the capture sees packets.
func startCapture(t testing.TB, i *Interface) *running {
	t.Helper()
	return startCaptureThen(t, i, func() {})
}

func startCaptureThen(t testing.TB, i *Interface, opened func()) *running {
	t.Helper()
	before := boundSockets(t)
	c := launchCapture(t, i, opened)
	poiptest.WaitUntil(t, "the capture to be bound", func() bool {
		select {
		case err := <-c.done:
			t.Fatalf("capture ended: %v", err)
		default:
		}
		return boundSockets(t) >= before+lanesOf(i)
	})
	return c
}

func lanesOf(i *Interface) int {
	if i.Latency == LatencyLow && (i.Snaplen == 0 || i.Snaplen > smallPacket) {
		return 2
	}
	return 1
}

// launchCapture is startCapture without the wait. The capture has a thread of
// its own, which dies with it; opened may take its capabilities away.
func launchCapture(t testing.TB, i *Interface, opened func()) *running {
	ctx, cancel := context.WithCancel(context.Background())
	c := &running{recorder: new(recorder), log: new(poiptest.Log), cancel: cancel, done: make(chan error, 1)}
	i.Log = slog.New(slog.NewTextHandler(c.log, nil))
	go func() {
		runtime.LockOSThread()
		c.done <- i.Run(ctx, func(info Info) Sink {
			c.info = info
			opened()
			return c.recorder
		})
		close(c.done)
	}()
	t.Cleanup(func() { cancel(); <-c.done })
	return c
}

// boundSockets counts the packet sockets of this process that receive. (The
// tcpdump that compiles a filter has one for a moment, too.)
func boundSockets(t testing.TB) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/packet")
	must(t, err)
	ours := ourSockets(t)
	for line := range strings.Lines(string(table)) {
		// sk RefCnt Type Proto Iface R Rmem User Inode
		if f := strings.Fields(line); len(f) == 9 && f[5] == "1" && f[3] == "0003" && ours["socket:["+f[8]+"]"] {
			n++
		}
	}
	return n
}

func ourSockets(t testing.TB) map[string]bool {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	ours := map[string]bool{}
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name()) // it may be closed by now
		ours[target] = true
	}
	return ours
}

// stop ends the capture and returns all that it has delivered.
func (c *running) stop(t testing.TB) []packet {
	t.Helper()
	c.cancel()
	if err := <-c.done; err != context.Canceled {
		t.Errorf("Run returned %v, want context.Canceled", err)
	}
	if c.pending != 0 {
		t.Errorf("%d packets were not flushed", c.pending)
	}
	return c.packets
}

// await waits until the capture has delivered n packets.
func (c *running) await(t testing.TB, n int) []packet {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("got %d packets of %d; log:\n%s", len(c.flushed()), n, c.log)
		}
	}()
	poiptest.WaitUntil(t, "packets", func() bool { return len(c.flushed()) >= n })
	return c.flushed()
}

// dropCapabilities takes all capabilities away from the calling thread.
func dropCapabilities() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		panic(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// injector sends frames out of an interface as they are.
type injector struct {
	t  testing.TB
	fd int
}

func newInjector(t testing.TB, ifname string) *injector {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	i := &injector{t, fd}
	i.bind(ifname)
	return i
}

func (i *injector) bind(ifname string) {
	i.t.Helper()
	w, err := newLinkWatch(ifname)
	if err != nil {
		i.t.Fatal(err)
	}
	defer w.close()
	l, err := w.look()
	if err == nil {
		err = unix.Bind(i.fd, &unix.SockaddrLinklayer{Ifindex: l.index})
	}
	if err != nil {
		i.t.Fatal(err)
	}
}

func (i *injector) send(frames ...[]byte) {
	i.t.Helper()
	for _, f := range frames {
		if _, err := unix.Write(i.fd, f); err != nil {
			i.t.Fatalf("send %d bytes: %v", len(f), err)
		}
	}
}

func ipOutput(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	return string(out), err
}

// ipBatch runs commands of ip(8) as fast as that can.
func ipBatch(lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	return cmd.Run()
}

// allowIPv6 undoes what poiptest's namespaces begin with.
func allowIPv6(t testing.TB) {
	t.Helper()
	confs, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/disable_ipv6")
	must(t, err)
	for _, conf := range confs {
		must(t, os.WriteFile(conf, []byte("0"), 0))
	}
}

// setOptmem sets the bytes that a socket of this namespace may have for filters
// and other options. Kernels older than 6.8 have only one setting, for all.
func setOptmem(t testing.TB, n string) {
	t.Helper()
	err := os.WriteFile("/proc/sys/net/core/optmem_max", []byte(n), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
}
