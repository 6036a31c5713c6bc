package owner

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
)

// OpenSecret opens a file for reading that is for its owner alone.
func OpenSecret(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat() // of the open file, so that nobody can swap it in between
	if err == nil {
		err = CheckMode(path, info.Mode(), 0o600)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// CheckMode refuses what is open to others than it should be.
func CheckMode(path string, have, want fs.FileMode) error {
	if runtime.GOOS == "windows" { // modes say nothing there
		return nil
	}
	if wider := have.Perm() &^ want; wider != 0 {
		return fmt.Errorf("%s is open to others (mode %04o): run chmod %04o %s", path, have.Perm(), want, path)
	}
	return nil
}
