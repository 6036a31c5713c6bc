package auth

import (
	"testing"

	"pgregory.net/rapid"
)

func pattern(t interface{ Fatal(...any) }, s string) Pattern {
	p, err := ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestZeroGrantHasNothing(t *testing.T) {
	var g Grant
	all := GrantOf(pattern(t, "*/*"))
	for _, name := range []StreamName{{}, {"a", "b"}} {
		if g.Has(name) {
			t.Errorf("the zero grant has %q", name)
		}
	}
	if g.Meets(all) || all.Meets(g) || g.Meets(g) || GrantOf(Pattern{}).Meets(all) || all.Meets(GrantOf(Pattern{})) {
		t.Error("the zero grant meets another")
	}
	if all.Has(StreamName{}) {
		t.Error("the grant of everything has the zero name")
	}
}

func TestGrantsMeet(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"*/*", "branch-7/eth0", true},
		{"branch-7/eth0", "branch-7/eth0", true},
		{"branch-7/eth0", "branch-8/eth0", false},
		{"branch-7/*", "*/eth0", true},
		{"branch-*/*", "*-7/*", true},
		{"branch-*/*", "site-*/*", false},
		{"a*b/*", "b*a/*", false},
		{"a*/x", "*b/y", false},
		{"a*b*c/*", "a*c/*", true},
		{"ab/*", "a*b/*", true},
		{"a/*", "a*b/*", false},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got := GrantOf(pattern(t, pair[0])).Meets(GrantOf(pattern(t, pair[1]))); got != c.want {
				t.Errorf("%s meets %s: %t", pair[0], pair[1], got)
			}
		}
	}
}

// TestMeetingPatternsShareAName: what two patterns both match makes them meet;
// over few short names, that they meet means that there is one.
func TestMeetingPatternsShareAName(t *testing.T) {
	names := words("ab", 6)
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab*]{1,3}`)
		a, b := part.Draw(t, "a"), part.Draw(t, "b")
		shared := false
		for _, n := range names {
			shared = shared || matchPart(a, n) && matchPart(b, n)
		}
		if meetParts(a, b) != shared {
			t.Errorf("%s and %s share a name: %t", a, b, shared)
		}
	})
}

// words are all over an alphabet, of one to n letters.
func words(alphabet string, n int) (out []string) {
	last := []string{""}
	for range n {
		var next []string
		for _, w := range last {
			for _, c := range alphabet {
				next = append(next, w+string(c))
			}
		}
		out, last = append(out, next...), next
	}
	return out
}
