//go:build unix

package certs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"poip/certs"
)

// TestCommandsOfRootLeaveTheRelayItsFiles: the relay has a user of its own, and
// its operator is root. Whatever a command makes in the data folder belongs to
// whom that belongs to; a list of revocations that the relay cannot read revokes
// nobody. It fails for root without owner.Give in create, and in lock, and
// without owner.Mkdir in openWithin.
func TestCommandsOfRootLeaveTheRelayItsFiles(t *testing.T) {
	for name, offline := range map[string]bool{"CA here": false, "CA elsewhere": true} {
		t.Run(name, func(t *testing.T) { testCommandsOfRoot(t, offline) })
	}
}

func testCommandsOfRoot(t *testing.T, offline bool) {
	data, elsewhere := filepath.Join(t.TempDir(), "relay"), ""
	if offline {
		elsewhere = filepath.Join(t.TempDir(), "ca")
		must(t, certs.InitOffline(data, elsewhere, "relay.example", nil))
	} else {
		must(t, certs.Init(data, "relay.example", nil))
	}
	uid := os.Getuid()
	if uid == 0 {
		uid = 65534
	}
	give := func(path string, _ fs.DirEntry, _ error) error { return os.Lchown(path, uid, -1) }
	must(t, filepath.WalkDir(data, give))

	tokens := certs.OpenTokens(data)
	_, err := tokens.Make("branch-1", time.Hour, false)
	must(t, err)
	_, err = tokens.Cancel("branch-1")
	must(t, err)
	must(t, certs.IssueSensor(data, "branch-7", filepath.Join(t.TempDir(), "branch-7")))
	must(t, certs.IssueAnalyst(data, "alice", filepath.Join(t.TempDir(), "alice"), "secret", time.Hour))
	_, err = certs.RevokeName(data, certs.AnalystSubject("alice"))
	must(t, err)
	if offline {
		must(t, certs.Delegate(data, elsewhere))
	}
	must(t, certs.Rotate(data, elsewhere, time.Hour))
	must(t, certs.Retire(data, time.Hour, true))

	seen := map[string]bool{}
	must(t, filepath.WalkDir(data, func(path string, d fs.DirEntry, e error) error {
		must(t, e)
		info, err := os.Lstat(path)
		must(t, err)
		if has := info.Sys().(*syscall.Stat_t); int(has.Uid) != uid {
			t.Errorf("%s belongs to %d, the folder to %d", path, has.Uid, uid)
		}
		seen[d.Name()] = true
		return nil
	}))
	for _, name := range []string{certs.RevocationsFile, "tokens", "sensors", "branch-7.json", "analysts", "alice.json", ".lock"} {
		if !seen[name] {
			t.Errorf("no %s was made: the test proves nothing about it", name)
		}
	}
}
