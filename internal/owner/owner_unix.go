//go:build unix

package owner

import (
	"fmt"
	"os"
	"syscall"
)

// Give gives a file or folder that was just made in root to whom root belongs.
// It is the open file that is given: whoever owns the folder may have put
// another one in its place.
func Give(made *os.File, root *os.Root) error {
	if os.Geteuid() != 0 { // it is the owner's already, and nobody else can give
		return nil
	}
	folder, err := root.Stat(".")
	if err != nil {
		return fmt.Errorf("find the owner of %s: %w", root.Name(), err)
	}
	info, err := made.Stat()
	if err != nil {
		return fmt.Errorf("find the owner of %s: %w", made.Name(), err)
	}
	want, have := folder.Sys().(*syscall.Stat_t), info.Sys().(*syscall.Stat_t)
	if want.Uid == have.Uid { // the group may do nothing
		return nil
	}
	if err := made.Chown(int(want.Uid), int(want.Gid)); err != nil {
		return fmt.Errorf("give it to the owner of %s: %w", root.Name(), err)
	}
	return nil
}
