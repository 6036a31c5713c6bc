package confine

import "golang.org/x/sys/unix"

// Which system calls the numbers mean, and what only this architecture has.
const (
	architecture = unix.AUDIT_ARCH_ARM
	private      = 0xf0000 // __ARM_NR_BASE: cacheflush, set_tls, which C libraries need
)

var (
	refusedHere = []uint32{
		unix.SYS_KEXEC_FILE_LOAD, unix.SYS_CLOCK_SETTIME64, unix.SYS_CLOCK_ADJTIME64,
		unix.SYS_PCICONFIG_IOBASE, unix.SYS_PCICONFIG_READ, unix.SYS_PCICONFIG_WRITE,
	}
	refusedAloneHere = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
)
