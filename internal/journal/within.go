package journal

import (
	"fmt"
	"os"
	"path/filepath"
)

// Within makes the folder path below dir, and returns where it is, for Open. It
// refuses a link on the way there that leads out of dir: whoever can plant one
// would otherwise have a journal written, and its old files removed, elsewhere.
func Within(dir, path string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
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
	below, err := root.OpenRoot(path)
	if err != nil {
		return "", fmt.Errorf("open folder %s: %w: it has to be a folder in there, and no link", filepath.Join(dir, path), err)
	}
	return filepath.Join(dir, path), below.Close()
}
