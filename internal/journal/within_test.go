package journal

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWithinLeadsNowhereElse(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if path, err := Within(filepath.Join(dir, "new"), "a/b"); err != nil || path != filepath.Join(dir, "new", "a", "b") {
		t.Errorf("%q, %v", path, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "new", "a")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("made %v, %v", info, err)
	}
	for _, link := range []string{"first", "second/below"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, link)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{link, filepath.Join(link, "c")} {
			if _, err := Within(dir, path); err == nil {
				t.Errorf("%s leads out", path)
			}
		}
	}
	if _, err := Within(dir, "../escape"); err == nil {
		t.Error("a path leads out")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}
