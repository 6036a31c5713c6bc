package poiptest

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// netnsMark is the variable that tells the child of RunInNetns who it is.
const netnsMark = "POIP_TEST_NETNS"

// RunInNetns runs body in a network and a mount namespace of its own, where the
// test is root, owns every interface and disturbs nobody. It runs the calling
// test or benchmark again in a child process, so whatever the test does outside
// of body is done twice. Root gets just these; everybody else a user namespace
// around them. The loopback interface is up and IPv6 says nothing
// unasked for.
func RunInNetns(tb testing.TB, body func()) {
	tb.Helper()
	if os.Getenv(netnsMark) == tb.Name() {
		if err := enterNetns(); err != nil {
			tb.Fatal(err)
		}
		body()
		return
	}
	out, err := runChild(tb)
	if _, bench := tb.(*testing.B); bench {
		os.Stdout.Write(out) // Logf would cut it short
	} else if err != nil || testing.Verbose() {
		tb.Logf("in a network namespace:\n%s", out)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// MountTmpfs puts a file system of that many bytes, in memory, on the folder.
// To be called within RunInNetns only, where nobody else sees it.
func MountTmpfs(tb testing.TB, dir string, size int64) {
	tb.Helper()
	if os.Getenv(netnsMark) == "" {
		tb.Fatal("mount a file system: not in a mount namespace of our own")
	}
	must(tb, os.MkdirAll(dir, 0o700))
	must(tb, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(tb, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)))
	tb.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// enterNetns is what the child does first.
func enterNetns() error {
	for _, scope := range []string{"all", "default"} {
		file := "/proc/sys/net/ipv6/conf/" + scope + "/disable_ipv6"
		if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("silence IPv6: %w", err)
		}
	}
	return IP("link set lo up")
}

func runChild(tb testing.TB) ([]byte, error) {
	const own, user = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, syscall.CLONE_NEWUSER
	if os.Getuid() != 0 {
		return childCommand(tb, own|user)
	}
	out, err := childCommand(tb, own)
	if errors.Is(err, unix.EPERM) { // root of a container
		return childCommand(tb, own|user)
	}
	return out, err
}

func childCommand(tb testing.TB, cloneflags int) ([]byte, error) {
	child := exec.CommandContext(tb.Context(), "/proc/self/exe", childFlags(tb)...)
	child.Env = append(os.Environ(), netnsMark+"="+tb.Name())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(cloneflags)}
	if cloneflags&syscall.CLONE_NEWUSER != 0 {
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	var out bytes.Buffer
	child.Stdout, child.Stderr = &out, &out
	if err := child.Start(); err != nil {
		return nil, fmt.Errorf("%w (ordinary users need user namespaces: sysctl user.max_user_namespaces, and kernel.apparmor_restrict_unprivileged_userns=0 where there is such a thing)", err)
	}
	err := child.Wait()
	if err == nil && bytes.Contains(out.Bytes(), []byte("no tests to run")) {
		err = errors.New("run test in a namespace: only top-level tests can, not subtests")
	}
	return out.Bytes(), err
}

// childFlags asks for this test alone, with the flags that we were given.
func childFlags(tb testing.TB) []string {
	args := []string{"-test.run=^" + tb.Name() + "$"}
	if _, bench := tb.(*testing.B); bench {
		args = []string{"-test.run=^$", "-test.bench=^" + tb.Name() + "$", "-test.benchmem"}
	}
	for _, name := range []string{"test.v", "test.short", "test.timeout", "test.benchtime"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			args = append(args, "-"+name+"="+f.Value.String())
		}
	}
	return args
}

// RealRoot reports whether this process is root of the machine and not just of
// a user namespace: some tools, tcpdump among them, want to become another
// user before they capture.
func RealRoot() bool {
	all, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && os.Geteuid() == 0 && strings.Join(strings.Fields(string(all)), " ") == "0 0 4294967295"
}

// IP runs ip(8) with the words of each line as arguments.
func IP(lines ...string) error {
	for _, line := range lines {
		out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// Veth makes a pair of interfaces in the namespace of the test, and waits until
// frames pass between them. It vanishes with the test, if the test has not
// deleted it or moved it elsewhere.
func Veth(tb testing.TB, a, b string, mtu int) {
	tb.Helper()
	err := IP(fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d", a, mtu, b, mtu),
		"link set "+a+" up", "link set "+b+" up")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = IP("link del " + a) })
	AwaitLink(tb, a)
	AwaitLink(tb, b)
}

// AwaitLink waits until an interface that was set up passes on what is sent:
// the kernel has it do so a moment later, and until then drops everything.
func AwaitLink(tb testing.TB, ifname string) {
	tb.Helper()
	WaitUntil(tb, ifname+" to become active", func() bool {
		out, err := exec.Command("ip", "-o", "link", "show", ifname).Output()
		return err == nil && bytes.Contains(out, []byte("LOWER_UP")) && !bytes.Contains(out, []byte("qdisc noop "))
	})
}

// Netns is one more network namespace, for the far end of a link. It lives in
// a thread of this process.
type Netns struct {
	// Path names the namespace to ip(8): ip link set vB netns PATH.
	Path string

	calls chan func() // to the thread that is in the namespace
	done  chan struct{}
}

// NewNetns makes a namespace with the loopback interface up. It ends with the
// test.
func NewNetns(tb testing.TB) *Netns {
	tb.Helper()
	n := &Netns{calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	tb.Cleanup(func() { close(n.calls); <-n.done })
	n.Do(func() {
		if err := enterNetns(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// live never unlocks its thread, which therefore dies with the goroutine.
func (n *Netns) live(ready chan<- error) {
	defer close(n.done)
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	n.Path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
	ready <- err
	for f := range n.calls {
		f()
	}
}

// Do runs f inside. Sockets and processes made by f itself (not by goroutines
// that it starts) belong to the namespace for as long as they live.
func (n *Netns) Do(f func()) {
	finished := make(chan struct{})
	n.calls <- func() { defer close(finished); f() }
	<-finished
}

// WaitUntil polls for a condition of the kernel that sends no event.
func WaitUntil(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited 20 s in vain for %s", what)
		}
	}
}
