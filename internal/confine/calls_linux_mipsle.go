package confine

import "golang.org/x/sys/unix"

// Which system calls the numbers mean, and what only this architecture has.
const (
	architecture = unix.AUDIT_ARCH_MIPSEL
	private      = 1<<32 - 1 // there are none
)

// SYSCALL, SOCKETCALL and IPC make other calls, where a filter does not see
// which. C libraries may make their sockets by SOCKETCALL.
var (
	refusedHere = []uint32{
		unix.SYS_SYSCALL, unix.SYS_UMOUNT, unix.SYS_STIME, unix.SYS_CLOCK_SETTIME64, unix.SYS_CLOCK_ADJTIME64,
	}
	refusedAloneHere = []uint32{unix.SYS_FORK, unix.SYS_SOCKETCALL, unix.SYS_IPC}
)
