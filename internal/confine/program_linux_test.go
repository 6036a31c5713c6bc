package confine

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data, its words in the VM's order of bytes.
func data(architecture, number uint32, arguments ...uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, number)
	b = binary.BigEndian.AppendUint32(b, architecture)
	b = append(b, make([]byte, 8)...) // instruction pointer
	for i := range 6 {
		var a uint64
		if i < len(arguments) {
			a = arguments[i]
		}
		b = binary.BigEndian.AppendUint32(b, uint32(a))
		b = binary.BigEndian.AppendUint32(b, uint32(a>>32))
	}
	return b
}

// The answers that no test can have from this kernel: to another architecture's
// calls, to those of kernels to come, to the most dangerous, and for bits that
// the kernel does not look at. It fails without any line of program's head.
func TestProgramAnswers(t *testing.T) {
	if architecture == 0 {
		t.Fatal("this architecture has no filter: run the tests on one that has")
	}
	const (
		allowed = unix.SECCOMP_RET_ALLOW
		ended   = unix.SECCOMP_RET_KILL_PROCESS
		eperm   = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	)
	for _, kind := range []struct {
		need                  Need
		packet, crypto, vsock uint32 // what becomes of their sockets
	}{
		{Need{}, unknown, unknown, unknown},
		{Need{Run: []string{"/usr"}}, allowed, unknown, unknown},
		{Need{Run: []string{"/usr"}, Commands: true, Mode: Require}, allowed, unknown, unknown},
		{Need{Run: []string{"/usr"}, Commands: true}, allowed, allowed, allowed},
	} {
		vm, err := bpf.NewVM(policyFor(kind.need).program())
		if err != nil {
			t.Fatal(err)
		}
		check := func(want uint32, data []byte) {
			t.Helper()
			if got, err := vm.Run(data); err != nil || uint32(got) != want {
				t.Errorf("% x: %#x, %v, want %#x", data, got, err, want)
			}
		}
		check(allowed, data(architecture, unix.SYS_READ))
		check(allowed, data(architecture, unix.SYS_SECCOMP))
		check(allowed, data(architecture, newest))
		check(enosys, data(architecture, newest+1))
		check(enosys, data(architecture, 1<<30|unix.SYS_GETPPID)) // x32's
		check(ended, data(unix.AUDIT_ARCH_I386, unix.SYS_READ))
		for _, call := range append(refusedToAll, refusedHere...) {
			check(eperm, data(architecture, call))
		}
		check(eperm, data(architecture, unix.SYS_CLONE, 1<<40|unix.CLONE_NEWUSER))
		check(eperm, data(architecture, unix.SYS_IOCTL, 0, 1<<40|unix.TIOCSTI))
		check(allowed, data(architecture, unix.SYS_SOCKET, 1<<40|unix.AF_INET6))
		check(allowed, data(architecture, private))
		check(kind.packet, data(architecture, unix.SYS_SOCKET, unix.AF_PACKET))
		check(kind.crypto, data(architecture, unix.SYS_SOCKET, unix.AF_ALG))
		check(kind.vsock, data(architecture, unix.SYS_SOCKET, unix.AF_VSOCK))
	}
}
