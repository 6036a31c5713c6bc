package confine

import "golang.org/x/sys/unix"

// Which system calls the numbers mean, and what only this architecture has.
const (
	architecture = unix.AUDIT_ARCH_X86_64
	private      = 1<<32 - 1 // there are none; x32's begin at 1<<30, and are refused
)

var (
	refusedHere      = []uint32{unix.SYS_KEXEC_FILE_LOAD, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT}
	refusedAloneHere = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
)
