package capture

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// grantCapture lets a helper process open packet sockets if this process may,
// also where that is by a capability of the file and not by being root: such
// ones are not inherited unless they are "ambient". os/exec makes it
// inheritable as well, which it has to be.
func grantCapture(helper *exec.Cmd) {
	if hasPermitted(unix.CAP_NET_RAW) {
		helper.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_RAW}}
	}
}

// hasPermitted reports whether a capability is in this process's permitted set.
func hasPermitted(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[capability/32].Permitted&(1<<(capability%32)) != 0
}
