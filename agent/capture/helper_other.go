//go:build !linux

package capture

import "os/exec"

// grantCapture is for Linux, where captures are privileged by a capability.
func grantCapture(*exec.Cmd) {}
