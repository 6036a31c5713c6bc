//go:build unix

package capture

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup puts a command that has not started yet into a process group of its
// own, which has the number of its process.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// signalGroup asks a process and all that it has started to exit, or kills
// them. That none are left is no error.
func signalGroup(p *os.Process, kill bool) {
	signal := syscall.SIGTERM
	if kill {
		signal = syscall.SIGKILL
	}
	_ = syscall.Kill(-p.Pid, signal)
}
