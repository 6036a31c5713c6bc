// Package asciijson writes JSON of ASCII only: what a terminal, a page or a
// careless reader could take for more than text is escaped. The standard
// library leaves DEL alone, the controls of 8 bits, and marks that turn the
// direction of writing.
package asciijson

import (
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf16"
)

// Line is a JSON text on one line, with the line's end.
func Line(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return escape(text), err
}

// Indented is a JSON text for people, with the last line's end.
func Indented(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return escape(text), err
}

// Print writes a JSON text for people.
func Print(w io.Writer, v any) error {
	text, err := Indented(v)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// escape relies on a JSON text having other runes in its strings only, and on
// json to have escaped what is below a space there.
func escape(text []byte) []byte {
	out := make([]byte, 0, len(text)+1)
	for _, r := range string(text) {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r < 0x10000:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
	}
	return append(out, '\n')
}
