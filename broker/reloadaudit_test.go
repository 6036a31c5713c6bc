package broker

import (
	"os"
	"slices"
	"testing"

	"poip/internal/audit"
)

// TestAChangedPasswordFileIsAudited: though the configuration is the same, a
// reload has changed who may log in. It fails without Equal in Reload.
func TestAChangedPasswordFileIsAudited(t *testing.T) {
	file := passwordFile(t, passwordLine("vera", "viewer", "vera's secret"))
	path, auditing := withAudit(t)
	w := startWorld(t, testConfig(t, func(c *Config) { c.Admin.Passwords = file }), auditing)
	keys := func() (out [][]string) {
		for _, e := range auditLines(t, path) {
			if e.Event == audit.ConfigChanged {
				out = append(out, e.Keys)
			}
		}
		return out
	}
	for n, line := range []string{
		passwordLine("vera", "viewer", "vera's secret"), // the same
		passwordLine("vera", "viewer", "another secret"),
		passwordLine("vera", "operator", "another secret"),
		passwordLine("vera", "operator", "another secret") + passwordLine("otto", "viewer", "otto's secret"),
		passwordLine("otto", "viewer", "otto's secret"),
	} {
		if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Reload(w.cfg); err != nil {
			t.Fatal(err)
		}
		w.eventually("a line", func() bool { return len(keys()) == n+1 })
		want := []string{"admin.passwords"}
		if n == 0 {
			want = nil
		}
		if got := keys()[n]; !slices.Equal(got, want) {
			t.Errorf("reload %d changed %q, want %q", n, got, want)
		}
	}
}
