package confine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Apply confines this process to what it needs. After an error the process may
// be half confined, and should end.
func Apply(need Need) (InForce, error) {
	force := InForce{Capabilities: "as they were", User: need.User}
	who, err := lookUp(need.User)
	if err != nil {
		return force, err
	}
	if need.Mode == Off {
		force.Why = `confine = "off"`
		force.Seccomp = "off: " + force.Why
		return force, become(who, nil)
	}
	var keep []uintptr
	if need.Commands && need.Mode != Require {
		keep = forCommands(who)
	}
	if err := dropBounding(keep); err != nil {
		return force, err
	}
	if err := allThreads("forbid new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return force, err
	}
	if err := lock(need, &force); err != nil {
		return force, err
	}
	if err := become(who, keep); err != nil {
		return force, err
	}
	left, err := dropCapabilities(keep)
	if err != nil {
		return force, err
	}
	force.Capabilities = left
	if err := reachable(need.Write); err != nil {
		return force, err
	}
	err = filter(need, &force) // last: it refuses what the steps before may need
	return force, err
}

// reachable tells early what would fail later: root without capabilities, or
// another user, cannot use what belongs to somebody else.
func reachable(folders []string) error {
	for _, path := range folders {
		err := unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("confine: %s cannot be used without privileges by user %d, which this process is now: %w: run chown -R %d %s",
				path, os.Getuid(), err, os.Getuid(), path)
		}
	}
	return nil
}
