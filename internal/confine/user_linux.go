package confine

import (
	"fmt"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// account is a user to become.
type account struct {
	name     string
	uid, gid int
}

// lookUp finds a user, by name or number. The empty name is nobody: nil.
func lookUp(name string) (*account, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("user = %q: there is no such user: make it by useradd --system --shell /usr/sbin/nologin %q", name, name)
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, fmt.Errorf("user = %q: its number is %q", name, u.Uid)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, fmt.Errorf("user = %q: its group's number is %q", name, u.Gid)
	}
	return &account{name: name, uid: uid, gid: gid}, nil
}

// become makes this process another user's, without groups beside that user's
// own. Of capabilities, keep may survive it. The calls hold for all threads.
func become(who *account, keep []uintptr) error {
	if who == nil || syscall.Getuid() == who.uid && syscall.Geteuid() == who.uid {
		return nil
	}
	if len(keep) > 0 {
		if err := allThreads("keep what commands need", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
			return err
		}
	}
	steps := []func() error{
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setresgid(who.gid, who.gid, who.gid) },
		func() error { return syscall.Setresuid(who.uid, who.uid, who.uid) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("user = %q: become it: %w: start as root, or take it out and start as that user", who.name, err)
		}
	}
	return nil
}
