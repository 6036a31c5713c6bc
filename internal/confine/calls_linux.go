package confine

import "golang.org/x/sys/unix"

// What is refused is listed, and not what is allowed: what Go's runtime, a C
// library or somebody's command will call one day nobody knows, and a list that
// lacks it breaks sensors in the field at an update. On the lists is what neither
// we nor programs that capture ever need: ways out of confinement, and doors to
// those parts of the kernel where most holes were found.

// newest is the last call that was looked at when the lists were made. Programs
// live without later ones, since older kernels have none of them either.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// refusedToAll is refused to us and to whom we start.
var refusedToAll = []uint32{
	// Other namespaces, other file trees, other processes.
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSPICK, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOUNT_SETATTR,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,

	// The kernel's workshops.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_LOOKUP_DCOOKIE,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_SYSLOG,

	// The machine as a whole.
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_VHANGUP,
	unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_NFSSERVCTL,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
}

// refusedAlone is refused beside that to a process that runs no other program.
var refusedAlone = []uint32{
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PERSONALITY,
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SEMGET, unix.SYS_MSGGET, unix.SYS_MQ_OPEN,
	unix.SYS_IO_SETUP, unix.SYS_VMSPLICE,
	unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY, unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,
}

// newNamespaces are the flags of clone for what unshare does. (That of time is
// none of clone's.)
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// A policy is what a filter refuses.
type policy struct {
	calls    []uint32 // whatever they are told
	alone    bool     // processes beside this one, which has threads only
	families []uint32 // sockets of other families; nil refuses none
}

func policyFor(need Need) policy {
	p := policy{calls: append(refusedToAll[:len(refusedToAll):len(refusedToAll)], refusedHere...)}
	switch {
	case need.Commands && need.Mode != Require: // any family may be theirs
	case need.Commands || len(need.Run) > 0: // tcpdump looks for interfaces
		p.families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET}
	default:
		p.alone = true
		p.calls = append(append(p.calls, refusedAlone...), refusedAloneHere...)
		p.families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}
	}
	return p
}
