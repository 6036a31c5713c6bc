package auth

import (
	"regexp"
	"strings"
	"testing"
)

// grammar is what the names are specified as.
var grammar = regexp.MustCompile(`\A[a-z0-9][a-z0-9._-]{0,62}\z`)

func TestParseStreamName(t *testing.T) {
	name, err := ParseStreamName("branch-7/eth0.100")
	if err != nil {
		t.Fatal(err)
	}
	if want := (StreamName{"branch-7", "eth0.100"}); name != want || name.String() != "branch-7/eth0.100" {
		t.Errorf("got %+v, %s", name, name)
	}
	for _, bad := range []string{"", "/", "branch-7", "branch-7/", "/eth0", "a/b/c", "A/b", "a/B", "a /b", "a/..", "a/-b", "a\n/b"} {
		if name, err := ParseStreamName(bad); err == nil {
			t.Errorf("%q was read as %v", bad, name)
		}
	}
}

// An error must not carry a hostile name to a terminal.
func TestNameErrorsAreQuoted(t *testing.T) {
	_, err := ParseSensorName("\x1b[31m\nroot" + strings.Repeat("x", 1000))
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > 400 {
		t.Errorf("got %v", err)
	}
}

// Whatever is accepted is of the grammar, which is safe in paths, pages and logs.
func FuzzSensorName(f *testing.F) {
	for _, s := range []string{"branch-7", "a", "0._-", "", ".", "..", "-a", "A", "ä", "a\x00", "a/b", "a%2f", strings.Repeat("a", 63), strings.Repeat("a", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseSensorName(s)
		if (err == nil) != grammar.MatchString(s) {
			t.Errorf("%q: %v", s, err)
		}
		if err == nil && string(name) != s || err != nil && name != "" {
			t.Errorf("%q became %q", s, name)
		}
	})
}
