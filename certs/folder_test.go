//go:build unix

package certs_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"poip/certs"
)

// TestAWideDataFolderIsNotOpened: neither by a relay nor by a command, whatever
// it is that others can read or enter. Without checkSecrets in LoadTrust the
// first rows are opened, without CheckFolder in openWithin the last.
func TestAWideDataFolderIsNotOpened(t *testing.T) {
	relay := func(dir string) error { _, err := certs.LoadTrust(dir); return err }
	for _, c := range []struct {
		name string
		mode os.FileMode
		open func(dir string) error
	}{
		{certs.CAKey, 0o644, relay},
		{certs.CAKey + ".next", 0o640, relay},
		{certs.IssuerKey, 0o604, relay},
		{certs.IssuerKey + ".next", 0o640, relay},
		{certs.RelayKey, 0o640, relay},
		{certs.RelayKey + ".next", 0o640, relay},
		{"tokens", 0o755, relay},
		{"sensors", 0o711, relay},
		{"analysts", 0o750, relay},
		{"audit", 0o755, relay},
		{"tokens", 0o755, func(dir string) error { _, err := certs.OpenTokens(dir).Make("branch-8", time.Hour, false); return err }},
		{"sensors", 0o755, func(dir string) error {
			_, err := certs.OpenRegistry(dir).Lookup(certs.SensorSubject("branch-7"))
			return err
		}},
	} {
		dir := initialized(t)
		must(t, certs.IssueSensor(dir, "branch-7", filepath.Join(t.TempDir(), "branch-7")))
		path := filepath.Join(dir, c.name)
		if _, err := os.Stat(path); err != nil {
			if filepath.Ext(c.name) == "" {
				must(t, os.Mkdir(path, 0o700))
			} else {
				must(t, os.WriteFile(path, nil, 0o600))
			}
		}
		must(t, c.open(dir))
		must(t, os.Chmod(path, c.mode))
		wants(t, c.open(dir), "chmod")
	}
}
