package certs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"poip/internal/owner"
)

const (
	folderMode fs.FileMode = 0o700
	secretMode fs.FileMode = 0o600
	publicMode fs.FileMode = 0o644 // within a folder of 0700
)

// file is one to be made.
type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// fill makes the files in dir, all or none. A file that is there already is
// left alone, and named in the error.
func fill(dir string, files []file) (err error) {
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := CheckFolder(dir); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	for i, f := range files {
		if err := create(root, f); err != nil {
			return undo(root, files[:i], err)
		}
	}
	return nil
}

// undo removes what was made before err.
func undo(root *os.Root, made []file, err error) error {
	for _, f := range made {
		if e := root.Remove(f.name); e != nil {
			err = fmt.Errorf("%w; and %s could not be removed again: %w", err, filepath.Join(root.Name(), f.name), e)
		}
	}
	return err
}

// create makes one file, which must not exist, for whom the folder belongs to,
// and has it on the disk.
func create(root *os.Root, f file) error {
	path := filepath.Join(root.Name(), f.name)
	out, err := root.OpenFile(f.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already and is not overwritten: choose another folder, or move it away", path)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	_, err = out.Write(f.data)
	err = errors.Join(err, owner.Give(out, root), out.Sync(), out.Close())
	if err != nil {
		return undo(root, []file{f}, fmt.Errorf("write %s: %w", path, err))
	}
	return nil
}

// replace puts a file in place of what has its name, or makes it: all of it,
// and on the disk, or nothing.
func replace(root *os.Root, f file) error {
	path := filepath.Join(root.Name(), f.name)
	draft := f
	draft.name = "." + rand.Text() // no name of ours begins with a dot
	if err := create(root, draft); err != nil {
		return err
	}
	if err := root.Rename(draft.name, f.name); err != nil {
		return undo(root, []file{draft}, fmt.Errorf("put %s in place: %w", path, err))
	}
	return syncFolder(root)
}

// syncFolder has the names in a folder on the disk.
func syncFolder(root *os.Root) error {
	if runtime.GOOS == "windows" { // folders cannot be synced there
		return nil
	}
	dir, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("open %s: %w", root.Name(), err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", root.Name(), err)
	}
	return nil
}

// openWithin opens a folder within the data folder dir, and makes it where it
// is not there.
func openWithin(dir, name string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	if err := owner.Mkdir(root, name, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	within, err := root.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	if err := CheckFolder(filepath.Join(dir, name)); err != nil {
		within.Close()
		return nil, err
	}
	return within, nil
}

// CheckFolder refuses a folder for keys that others than its owner can enter.
func CheckFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("check folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("check folder: %s is not a folder", dir)
	}
	return owner.CheckMode(dir, info.Mode(), folderMode)
}

// checkSecrets refuses a relay's data folder in which others can read a key, be
// it one that is not in use now, or enter a folder.
func checkSecrets(dir string) error {
	for name, mode := range map[string]fs.FileMode{
		CAKey: secretMode, IssuerKey: secretMode, RelayKey: secretMode,
		CAKey + nextKey: secretMode, IssuerKey + nextKey: secretMode, RelayKey + nextKey: secretMode,
		"tokens": folderMode, "sensors": folderMode, "analysts": folderMode, "audit": folderMode,
	} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("check folder: %w", err)
		}
		if err := owner.CheckMode(path, info.Mode(), mode); err != nil {
			return err
		}
	}
	return nil
}

// readSecret reads a key that only its owner can read.
func readSecret(path string) ([]byte, error) {
	f, err := owner.OpenSecret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
