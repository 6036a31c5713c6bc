package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// adopt notes what of a log is not there yet, the file and its folder, and
// returns what gives these to the owner of the folder above.
func adopt(path string) (give func()) {
	above := path
	var missing []string
	for range 2 {
		if _, err := os.Lstat(above); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		missing = append(missing, above)
		above = filepath.Dir(above)
	}
	info, err := os.Stat(above)
	if err != nil || len(missing) == 0 {
		return func() {}
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return func() {}
	}
	return func() {
		for _, p := range missing {
			// It fails for who is not root, and then the owner is right.
			_ = os.Lchown(p, int(owner.Uid), int(owner.Gid))
		}
	}
}
