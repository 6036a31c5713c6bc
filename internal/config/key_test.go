package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// It fails when ReadKey does not call outside, resolve does not follow links, or
// nothing looks at the mode.
func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	digits := strings.Repeat("0aF9", 16)
	put := func(path, text string, mode os.FileMode) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := func(to, name string) string {
		path := filepath.Join(dir, name)
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inside := put("data/history.key", digits, 0o600)
	good := put("history.key", digits+"\n", 0o600)
	for _, c := range []struct{ path, data, want string }{
		{good, data, ""},
		{good, filepath.Join(dir, "data-not-made"), ""},
		{put("history.key.d/x", digits, 0o400), filepath.Join(dir, "history.key"), ""}, // a longer name is not within
		{link(good, "data/link"), data, ""},
		{inside, data, "within the data folder"},
		{link(inside, "link"), data, "within the data folder"},
		{good, link(dir, "linked-data"), "within the data folder"},
		{put("data/deep/er/key", digits, 0o600), data, "within the data folder"},
		{put("group", digits, 0o640), data, "chmod 0600"},
		{put("world", digits, 0o604), data, "chmod 0600"},
		{put("short", digits[:62], 0o600), data, "64 hexadecimal digits"},
		{put("long", digits+"00", 0o600), data, "64 hexadecimal digits"},
		{put("huge", strings.Repeat(digits, 100), 0o600), data, "64 hexadecimal digits"},
		{put("secret", strings.Repeat("q", 64), 0o600), data, "64 hexadecimal digits"},
		{filepath.Join(dir, "none"), data, "no such file"},
	} {
		key, err := ReadKey(c.path, c.data)
		switch {
		case c.want == "" && (err != nil || !bytes.Equal(key, bytes.Repeat([]byte{0x0a, 0xf9}, 16))):
			t.Errorf("%s beside %s: %v", c.path, c.data, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s beside %s: got %v, want %q", c.path, c.data, err, c.want)
		case err != nil && (strings.Contains(err.Error(), "0aF9") || strings.Contains(err.Error(), "qq") || strings.Contains(err.Error(), "'q'")):
			t.Errorf("the error shows the key: %v", err)
		}
	}
}
