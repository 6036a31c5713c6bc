package audit

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestACommandOfRootLeavesTheRelayItsLog: what Append makes belongs to whom the
// data folder belongs to, or the relay's own user could not write on. It fails
// for root without owner.Give in openFile, and with os.Mkdir in openFolder.
func TestACommandOfRootLeavesTheRelayItsLog(t *testing.T) {
	data := t.TempDir()
	uid := os.Getuid()
	if uid == 0 {
		uid = 65534
	}
	if err := os.Chown(data, uid, -1); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(data, File)
	if err := Append(path, Entry{Event: Revoked}); err != nil {
		t.Fatal(err)
	}
	for _, made := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(made)
		if err != nil {
			t.Fatal(err)
		}
		if has := info.Sys().(*syscall.Stat_t).Uid; int(has) != uid {
			t.Errorf("%s belongs to %d, the data folder to %d", made, has, uid)
		}
	}
}
