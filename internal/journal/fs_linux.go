package journal

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// syncData has the data of a file, and its length, on the disk.
func syncData(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for failed = unix.EINTR; errors.Is(failed, unix.EINTR); {
			failed = unix.Fdatasync(int(fd))
		}
	})
	return errors.Join(err, os.NewSyscallError("fdatasync", failed))
}

// hasten has the kernel begin to write a part of a file to the disk, which it
// else does at the next fdatasync, all at once. It takes no error away from
// that one: only waiting does, which we do not ask for.
func hasten(f *os.File, at, n int64) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), at, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// reserve asks for blocks for a part of a file. The file grows no longer by
// that. On failure some of them may have been found.
func reserve(f *os.File, at, n int64) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, at, n)
	})
	if errors.Is(failed, unix.EINTR) {
		return nil // says nothing about the disk
	}
	return errors.Join(err, failed)
}

// hasRoomBehind says whether a file has more blocks than its length takes.
func hasRoomBehind(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Blocks*512 > info.Size()+64<<10 // and what a file system takes for its own
}

// setDirect has the writes that follow go to the disk past the page cache, or
// not any more.
func setDirect(f *os.File, on bool) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err == nil {
			flags &^= unix.O_DIRECT
			if on {
				flags |= unix.O_DIRECT
			}
			_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
		}
		failed = os.NewSyscallError("fcntl", err)
	})
	return errors.Join(err, failed)
}

// isUnsupported says whether direct writes are not possible here, or not of
// such blocks.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// newChunk is memory that the kernel may keep in one piece, which spares the
// copy into it and a direct write from it a look at each page: 6 % of the rate
// at which a history is acknowledged (Linux 6.18, virtio).
func newChunk() []byte {
	m, err := unix.Mmap(-1, 0, chunkLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return aligned(chunkLen)
	}
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE) // only costs time
	return m
}

// freeChunk gives memory of newChunk back. Nobody may look there any more, nor
// keep a slice of it: the collector would follow that into memory which may be
// its own by then, and takes a bad pointer for a reason to end the program.
func freeChunk(m []byte) { _ = unix.Munmap(m) } // it knows memory that is not its own
