package confine

import "golang.org/x/sys/unix"

// Which system calls the numbers mean, and what only this architecture has.
const (
	architecture = unix.AUDIT_ARCH_AARCH64
	private      = 1<<32 - 1 // there are none
)

var (
	refusedHere      = []uint32{unix.SYS_KEXEC_FILE_LOAD}
	refusedAloneHere = []uint32{}
)
