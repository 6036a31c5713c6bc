package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// Within makes the folder path below dir, and returns where it is, for Open. It
// refuses a link on the way there that leads out of dir: whoever can plant one
// would otherwise have a journal written, and its old files removed, elsewhere.
// On return all folders on the way have their entries on the disk: what a
// journal confirms must not go with a folder that a power cut forgets.
func Within(dir, path string) (string, error) { return makeWithin(dir, path, syncEntries) }

func makeWithin(dir, path string, sync func(*os.File) error) (string, error) {
	if err := makeDir(dir); err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make folder %s: %w: it has to be a folder in there, and no link", filepath.Join(dir, path), err)
	}
	out := filepath.Join(dir, path)
	below, err := root.OpenRoot(path)
	if err != nil {
		return "", fmt.Errorf("open folder %s: %w: it has to be a folder in there, and no link", out, err)
	}
	if err := below.Close(); err != nil {
		return "", err
	}
	for path != "." {
		path = filepath.Dir(path)
		if err := syncBelow(root, path, sync); err != nil {
			return "", fmt.Errorf("sync folder %s: %w", filepath.Join(dir, path), err)
		}
	}
	return out, nil
}

// syncBelow has the entries of a folder below root on the disk. That it was
// there already does not say that they are.
func syncBelow(root *os.Root, path string, sync func(*os.File) error) error {
	d, err := root.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return sync(d)
}
