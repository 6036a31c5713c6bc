// Package confine takes from this process what it does not need any more, for
// good and for all of its threads, once it has opened what does need it:
//
//   - capabilities, in all five sets (capabilities(7)), and the way back to
//     them through programs with privileges of their own (no_new_privs);
//   - root's identity, where another user is asked for;
//   - the file system, but for the paths that are named (Landlock);
//   - the system calls that lead out of this, or to the kernel's weak places,
//     and to programs and sockets that are not needed (seccomp).
//
// Whoever takes such a process over by a mistake in it has a packet parser's
// rights and no more. What the kernel does not have is left out, and Apply says
// what is in force, for the log. Only Linux has any of it.
package confine

import (
	"fmt"
	"log/slog"
	"strings"
)

// Mode is the value of the key confine; empty is Auto.
type Mode string

// The modes.
const (
	Auto    Mode = "auto"    // whatever this kernel offers
	Off     Mode = "off"     // nothing
	Require Mode = "require" // everything, or an error
)

// Check says why a mode is none.
func (m Mode) Check() error {
	switch m {
	case "", Auto, Off, Require:
		return nil
	}
	return fmt.Errorf("confine = %q: want \"auto\", \"require\" or \"off\"", string(m))
}

// Need is what a process goes on to need.
type Need struct {
	Mode Mode
	User string // to become, by name; "" stays who we are

	// Paths with all that is below them. Those that are missing are passed
	// over. Symbolic links are followed, now.
	Read  []string // to be read
	Run   []string // to be read and run; where there is none, no program is
	Write []string // folders: everything but running

	// Commands says that others' programs are run, whose needs nobody knows.
	// Unless Mode is Require they keep the whole file system, and what it
	// takes to capture: those capabilities stay, but not in effect. They may
	// open any socket, too.
	Commands bool
}

// InForce is what Apply has achieved.
type InForce struct {
	Capabilities string // what is left of them: "none", or those that commands get
	User         string // who we have become; "" is nobody else
	Landlock     int    // the kernel's version of it; 0: not in force
	Why          string // it is not
	Paths        []string
	Seccomp      string // what the filter of system calls does, or "off: " and why
}

// Log says what is in force. The paths are many.
func (f InForce) Log(log *slog.Logger) {
	log.Info("confined", "to", f)
	log.Debug("confined to paths", "paths", strings.Join(f.Paths, " "))
}

// LogValue is how it stands in the log.
func (f InForce) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("capabilities", f.Capabilities)}
	if f.User != "" {
		attrs = append(attrs, slog.String("user", f.User))
	}
	landlock := "off: " + f.Why
	if f.Landlock > 0 {
		landlock = fmt.Sprintf("ABI %d, %d paths", f.Landlock, len(f.Paths))
	}
	return slog.GroupValue(append(attrs, slog.String("landlock", landlock), slog.String("seccomp", f.Seccomp))...)
}
