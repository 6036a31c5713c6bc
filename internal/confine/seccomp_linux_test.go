package confine_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"poip/internal/confine"
)

// all64 is -1: no descriptor, no process, no address.
const all64 = 1<<64 - 1

// A trial is a system call, with arguments that do no harm, and what each of the
// three kinds of process is told.
type trial struct {
	name                   string
	call                   []uint64
	free                   syscall.Errno // without a filter
	alone, agent, commands syscall.Errno
}

var trials = []trial{
	{"getppid", []uint64{unix.SYS_GETPPID}, 0, 0, 0, 0},
	{"ptrace", []uint64{unix.SYS_PTRACE, unix.PTRACE_CONT, all64}, unix.ESRCH, unix.EPERM, unix.EPERM, unix.EPERM},
	{"kcmp", []uint64{unix.SYS_KCMP, all64, all64}, unix.ESRCH, unix.EPERM, unix.EPERM, unix.EPERM},
	{"clone into a network namespace", []uint64{unix.SYS_CLONE, unix.CLONE_NEWNET | unix.CLONE_SIGHAND | unix.CLONE_THREAD}, unix.EINVAL, unix.EPERM, unix.EPERM, unix.EPERM},
	{"clone a process", []uint64{unix.SYS_CLONE, unix.CLONE_SIGHAND}, unix.EINVAL, unix.EPERM, unix.EINVAL, unix.EINVAL},
	{"clone a thread", []uint64{unix.SYS_CLONE, unix.CLONE_THREAD}, unix.EINVAL, unix.EINVAL, unix.EINVAL, unix.EINVAL},
	{"clone3", []uint64{unix.SYS_CLONE3, 0, 0}, unix.EINVAL, unix.ENOSYS, unix.ENOSYS, unix.ENOSYS},
	{"type into the terminal", []uint64{unix.SYS_IOCTL, all64, unix.TIOCSTI}, unix.EBADF, unix.EPERM, unix.EPERM, unix.EPERM},
	{"paste into the console", []uint64{unix.SYS_IOCTL, all64, unix.TIOCLINUX}, unix.EBADF, unix.EPERM, unix.EPERM, unix.EPERM},
	{"ask the terminal", []uint64{unix.SYS_IOCTL, all64, unix.TIOCGWINSZ}, unix.EBADF, unix.EBADF, unix.EBADF, unix.EBADF},
	{"run a program", []uint64{unix.SYS_EXECVE, all64, 0, 0}, unix.EFAULT, unix.EPERM, unix.EFAULT, unix.EFAULT},
	{"run a program by a descriptor", []uint64{unix.SYS_EXECVEAT, all64, all64, 0}, unix.EFAULT, unix.EPERM, unix.EFAULT, unix.EFAULT},
	{"semget", []uint64{unix.SYS_SEMGET, 0, all64, 0}, unix.EINVAL, unix.EPERM, unix.EINVAL, unix.EINVAL},
	{"UDP socket", []uint64{unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM}, 0, 0, 0, 0},
	{"Unix socket", []uint64{unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM}, 0, 0, 0, 0},
	{"socket that links are heard of", []uint64{unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW}, 0, unix.EAFNOSUPPORT, 0, 0},
	{"socketpair", []uint64{unix.SYS_SOCKETPAIR, unix.AF_NETLINK, unix.SOCK_RAW}, unix.EFAULT, unix.EAFNOSUPPORT, unix.EFAULT, unix.EFAULT},
}

// The kernel tells every thread, those that were there before included, what a
// process of its kind is told, and one without a filter something else. Take
// SECCOMP_FILTER_FLAG_TSYNC out of install, or a when out of policy.program, and
// it fails.
func TestEveryThreadIsRefused(t *testing.T) {
	run := []string{"/usr"}
	kinds := []struct {
		name string
		need confine.Need
		want func(trial) syscall.Errno
	}{
		{"free", confine.Need{Mode: confine.Off}, func(t trial) syscall.Errno { return t.free }},
		{"relay", confine.Need{Mode: confine.Auto}, func(t trial) syscall.Errno { return t.alone }},
		{"agent", confine.Need{Mode: confine.Auto, Run: run}, func(t trial) syscall.Errno { return t.agent }},
		{"agent with commands", confine.Need{Mode: confine.Auto, Run: run, Commands: true}, func(t trial) syscall.Errno { return t.commands }},
	}
	do := task{Threads: 3}
	for _, trial := range trials {
		do.Calls = append(do.Calls, trial.call)
	}
	for _, kind := range kinds {
		do.Need = kind.need
		o := inChild(t, do)
		if o.Error != "" || len(o.Called) != do.Threads {
			t.Fatalf("%s: %+v", kind.name, o)
		}
		if off := strings.HasPrefix(o.Force.Seccomp, "off"); off != (kind.name == "free") {
			t.Fatalf("%s: the filter: %s", kind.name, o.Force.Seccomp)
		}
		for i, trial := range trials {
			for _, called := range o.Called {
				if called[i] != kind.want(trial) {
					t.Errorf("%s: %s: %v, want %v", kind.name, trial.name, called[i], kind.want(trial))
				}
			}
		}
	}
}

// Whom a confined process starts is refused the same.
func TestProgramsHaveTheFilter(t *testing.T) {
	run := []string{"/usr", "/bin", "/lib", "/lib64"}
	status := []string{"grep", "Seccomp:", "/proc/self/status"}
	for _, commands := range []bool{false, true} {
		o := inChild(t, task{Need: confine.Need{Mode: confine.Auto, Commands: commands, Read: proc, Run: run}, Exec: [][]string{status, {"unshare", "-U", "true"}}})
		if o.Error != "" || o.Ran[0] != "Seccomp:\t2" || !strings.Contains(o.Ran[1], "Operation not permitted") {
			t.Errorf("commands %v: %q, %+v", commands, o.Ran, o)
		}
	}
	o := inChild(t, task{Need: confine.Need{Mode: confine.Auto}, Exec: [][]string{{"/bin/true"}}})
	if !slices.Equal(o.Ran, []string{"refused: fork/exec /bin/true: operation not permitted"}) {
		t.Errorf("who runs no program ran one: %q", o.Ran)
	}
}
