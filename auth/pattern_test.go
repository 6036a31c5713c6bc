package auth

import (
	"regexp"
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, stream string
		want            bool
	}{
		{"*/*", "branch-7/eth0", true},
		{"branch-7/eth0", "branch-7/eth0", true},
		{"branch-7/eth0", "branch-7/eth1", false},
		{"branch-7/eth0", "branch-77/eth0", false},
		{"branch-*/eth0", "branch-7/eth0", true},
		{"branch-*/eth0", "branch-/eth0", true},
		{"branch-*/eth0", "xbranch-7/eth0", false},
		{"*/eth*", "a/eth0.100", true},
		{"*/*.0", "a/eth0", false},
		{"*a*b*/*", "xaybz/c", true},
		{"*a*b*/*", "xbyaz/c", false},
		{"*ab/*", "aab/c", true},
		{"**/***", "a/b", true},
		{"a*a/*", "a/b", false},
		{"*/b", "a.b/c", false},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		name, err := ParseStreamName(c.stream)
		if err != nil {
			t.Fatal(err)
		}
		if p.Match(name) != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.stream, !c.want)
		}
		if p.String() != c.pattern {
			t.Errorf("%s is printed as %s", c.pattern, p)
		}
	}
}

func TestPatternRefusals(t *testing.T) {
	for _, bad := range []string{"", "*", "/", "*/", "/*", "*/*/*", "a?/b", "[a]/b", "A*/b", "a/b ", "-a/b", "a/\x00", strings.Repeat("*", 64) + "/a"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q was read as %v", bad, p)
		}
	}
}

func TestZeroPatternMatchesNothing(t *testing.T) {
	var p Pattern
	for _, name := range []StreamName{{}, {"a", "b"}, {"", "b"}, {"a", ""}} {
		if p.Match(name) {
			t.Errorf("it matches %q", name)
		}
	}
	all, _ := ParsePattern("*/*")
	for _, name := range []StreamName{{}, {"", "b"}, {"a", ""}} {
		if all.Match(name) {
			t.Errorf("*/* matches the zero name %q", name)
		}
	}
}

// A pattern matches what the regular expression of the same meaning does.
func FuzzPattern(f *testing.F) {
	f.Add("*/*", "branch-7/eth0")
	f.Add("a*b*a/**", "abba/x")
	f.Add("*a*a*a*a*/x", "aaaaaaaaaaaaaaaaaaaaaab/x")
	f.Fuzz(func(t *testing.T, pattern, stream string) {
		p, err := ParsePattern(pattern)
		if err != nil {
			return
		}
		name, err := ParseStreamName(stream)
		if err != nil {
			return
		}
		same := regexp.MustCompile(`\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `[^/]*`) + `\z`)
		if p.Match(name) != same.MatchString(stream) {
			t.Errorf("%q matches %q: %v", pattern, stream, p.Match(name))
		}
	})
}
