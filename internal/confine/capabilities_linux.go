package confine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Capabilities that commands may keep, by name.
var names = map[uintptr]string{unix.CAP_NET_RAW: "net_raw", unix.CAP_SETGID: "setgid", unix.CAP_SETUID: "setuid"}

// forCommands is what a command needs to capture. Root's tcpdump becomes
// another user first, and refuses to go on where it cannot.
func forCommands(who *account) []uintptr {
	if who == nil && unix.Getuid() == 0 || who != nil && who.uid == 0 {
		return []uintptr{unix.CAP_NET_RAW, unix.CAP_SETGID, unix.CAP_SETUID}
	}
	return []uintptr{unix.CAP_NET_RAW}
}

// allThreads makes a system call in every thread of this process, at once.
// (The Go runtime can do so itself only where there is no cgo, as in tests.)
func allThreads(what string, call, a, b, c uintptr) error {
	if _, _, errno := psx.Syscall6(call, a, b, c, 0, 0, 0); errno != 0 {
		return fmt.Errorf("confine: %s: %w", what, errno)
	}
	return nil
}

// dropBounding has programs that we start get nothing but keep, were they root's
// or had they capabilities of their own. It takes CAP_SETPCAP; who does not have
// that is left with no_new_privs, which says the same.
func dropBounding(keep []uintptr) error {
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil { // EINVAL: the kernel has no more
			return nil
		}
		if has == 0 || slices.Contains(keep, c) {
			continue
		}
		err = allThreads(fmt.Sprintf("give up capability %d for programs to come", c), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EPERM) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dropCapabilities empties the effective, inheritable and ambient sets, and the
// permitted one but for what we have of keep. It returns what is left, in words.
func dropCapabilities(keep []uintptr) (left string, err error) {
	err = allThreads("give up ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if errors.Is(err, unix.EINVAL) { // which kernels before 4.3 say
		err = nil
	}
	if err != nil {
		return "", err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, fewer [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return "", fmt.Errorf("confine: read capabilities: %w", err)
	}
	var kept []string
	for _, c := range keep {
		if have[0].Permitted&(1<<c) != 0 { // all of ours are below 32
			fewer[0].Permitted |= 1 << c
			kept = append(kept, names[c])
		}
	}
	if have != fewer { // a sandbox around us may refuse the call
		err = allThreads("give up capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&fewer[0])), 0)
		runtime.KeepAlive(&header)
		runtime.KeepAlive(&fewer)
	}
	if err != nil {
		return "", err
	}
	if len(kept) == 0 {
		return "none", nil
	}
	return "for commands: " + strings.Join(kept, " "), nil
}
