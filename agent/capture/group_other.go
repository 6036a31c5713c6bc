//go:build !unix

package capture

import (
	"os"
	"os/exec"
)

// ownGroup is for systems that have process groups. Elsewhere what a command
// has started is left alone.
func ownGroup(*exec.Cmd) {}

// signalGroup kills the process either way: there is no asking.
func signalGroup(p *os.Process, _ bool) { _ = p.Kill() }
