package asciijson

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzLine: whatever the words, they are shown in printable ASCII, and read
// back as they were.
func FuzzLine(f *testing.F) {
	for _, words := range []string{"", "branch-7", "\x1b[31m", "\x7f", "\u009b31m", "\u202egpj.exe", "\U0001f4e6", "\u2028", `\u007f"`} {
		f.Add(words)
	}
	f.Fuzz(func(t *testing.T, words string) {
		for _, marshal := range []func(any) ([]byte, error){Line, Indented} {
			text, err := marshal(map[string]string{words: words})
			if err != nil {
				t.Fatal(err)
			}
			if bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f }) {
				t.Fatalf("%q became %q", words, text)
			}
			var back map[string]string
			if err := json.Unmarshal(text, &back); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if utf8.ValidString(words) && back[words] != words {
				t.Fatalf("%q became %q", words, text)
			}
		}
	})
}
