package journal

import (
	"os"
	"path/filepath"
	"slices"
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

func TestWithinHasTheWayOnTheDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for range 2 { // whoever made the folders may have died before they were synced
		var synced []string
		sync := func(d *os.File) error {
			name, err := filepath.Rel(dir, d.Name())
			synced = append(synced, name)
			return err
		}
		if _, err := makeWithin(dir, "a/b/c", sync); err != nil {
			t.Fatal(err)
		}
		if want := []string{"a/b", "a", "."}; !slices.Equal(synced, want) {
			t.Errorf("synced %q, want %q", synced, want)
		}
	}
	if _, err := makeWithin(dir, "a/b/d", func(*os.File) error { return errSync }); err == nil {
		t.Error("folders are used that are not on the disk")
	}
}
