package broker

import (
	"strings"
	"unicode"
)

// legible makes of a peer's own words what a page, a terminal or a file may
// show as it is: JSON and logs leave some controls alone that terminals act on,
// and marks that turn the direction of writing.
func legible(words string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, words)
}
