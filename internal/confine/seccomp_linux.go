package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// filter puts a seccomp filter in force, as far as the kernel has it, which is
// since 3.17. no_new_privs has to be set. Whom we start has the filter, too.
func filter(need Need, force *InForce) error {
	p := policyFor(need)
	err := errNoLists
	if architecture != 0 {
		err = install(p.program())
	}
	switch {
	case err == nil:
		force.Seccomp = fmt.Sprintf("refuses %d system calls", len(p.calls))
	case need.Mode == Require:
		return fmt.Errorf(`confine = "require": seccomp: %w: take a kernel with CONFIG_SECCOMP_FILTER, or confine = "auto"`, err)
	default:
		force.Seccomp = "off: " + err.Error()
	}
	return nil
}

var errNoLists = fmt.Errorf("there is no filter for %s", runtime.GOARCH)

// install has the kernel ask a program about each call of each thread. Kernels
// before 5.16 slow a process with a filter down, against code in it that reads
// what is not its own by speculation (SSBD). We run none, and say so, which
// kernels before 4.17 do not understand.
func install(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = seccomp(unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, &fprog)
	if errors.Is(err, unix.EINVAL) {
		err = seccomp(unix.SECCOMP_FILTER_FLAG_TSYNC, &fprog)
	}
	return err
}

func seccomp(flags uintptr, fprog *unix.SockFprog) error {
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(fprog)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has another filter", thread)
	}
	return nil
}

// Offsets in struct seccomp_data, of 64-bit words for arguments. Of those the
// kernel itself looks at the lower half alone, in all that we look at. Every
// architecture with a list is little-endian.
const (
	offNumber       = 0
	offArchitecture = 4
	offArguments    = 16
)

// The kernel's answers. A program of another architecture, of 32 bits mostly,
// is ended (SIGSYS): its numbers mean other calls, and it could not go on.
var (
	allow  = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	end    = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
	refuse = fail(unix.EPERM)
)

func fail(errno unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// program is the policy's, over struct seccomp_data. Calls that it allows whatever
// they are told are not asked about any more from Linux 5.11 on.
func (p policy) program() []bpf.Instruction {
	all := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArchitecture, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: architecture, SkipTrue: 1},
		end,
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: newest, SkipFalse: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: private, SkipTrue: 1},
		fail(unix.ENOSYS),
	}
	for _, call := range p.calls {
		all = append(all, when(call, refuse)...)
	}
	// Its flags are in memory, which a filter does not see. C libraries turn to clone.
	all = append(all, when(unix.SYS_CLONE3, fail(unix.ENOSYS))...)
	all = append(all, when(unix.SYS_CLONE, p.clone()...)...)
	all = append(all, when(unix.SYS_IOCTL, typing...)...)
	if p.families != nil {
		all = append(all, when(unix.SYS_SOCKET, p.socket()...)...)
		all = append(all, when(unix.SYS_SOCKETPAIR, p.socket()...)...)
	}
	return append(all, allow)
}

// when has instructions, which return in any case, for one call.
func when(call uint32, then ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: call, SkipFalse: uint8(len(then))}}, then...)
}

func argument(n uint32) bpf.Instruction {
	return bpf.LoadAbsolute{Off: offArguments + 8*n, Size: 4}
}

func (p policy) clone() []bpf.Instruction {
	all := []bpf.Instruction{
		argument(0),
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newNamespaces, SkipFalse: 1},
		refuse,
	}
	if p.alone {
		all = append(all, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipTrue: 1}, refuse)
	}
	return append(all, allow)
}

// socket refuses in the words of a kernel that lacks the family, after which
// libpcap looks elsewhere.
func (p policy) socket() []bpf.Instruction {
	all := []bpf.Instruction{argument(0)}
	for _, family := range p.families {
		all = append(all, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipFalse: 1}, allow)
	}
	return append(all, fail(unix.EAFNOSUPPORT))
}

// typing is what ioctl does to the terminal that somebody, root maybe, has
// started us from, and goes on to use.
var typing = []bpf.Instruction{
	argument(1),
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCLINUX, SkipFalse: 1},
	refuse,
	allow,
}
