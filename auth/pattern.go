package auth

import (
	"errors"
	"fmt"
	"strings"
)

// Pattern selects streams by name: two parts around a slash, in each of which
// a star stands for any run of characters. Its zero value matches nothing.
type Pattern struct{ sensor, capture string }

// ParsePattern reads a pattern such as "*/*", "branch-*/eth0".
func ParsePattern(s string) (Pattern, error) {
	sensor, capture, ok := strings.Cut(s, "/")
	if !ok {
		return Pattern{}, fmt.Errorf("pattern %.160q: no slash; write sensor/capture, as in \"*/*\"", s)
	}
	for _, part := range []string{sensor, capture} {
		if err := checkPart(part); err != nil {
			return Pattern{}, fmt.Errorf("pattern %.160q: %w", s, err)
		}
	}
	return Pattern{sensor: sensor, capture: capture}, nil
}

func checkPart(part string) error {
	if part == "" {
		return errors.New("a part is empty; a star matches every name")
	}
	if len(part) > MaxNameLen {
		return fmt.Errorf("a part is longer than %d bytes", MaxNameLen)
	}
	for i := range len(part) {
		if part[i] != '*' && !nameByte(part[i], i == 0) {
			return fmt.Errorf("byte %q; use what names are made of, and stars", part[i])
		}
	}
	return nil
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.sensor + "/" + p.capture }

// Match reports whether the pattern selects the stream.
func (p Pattern) Match(name StreamName) bool {
	return matchPart(p.sensor, string(name.Sensor)) && matchPart(p.capture, string(name.Capture))
}

// matchPart goes back to the last star only, so its time is bounded by the
// product of the lengths.
func matchPart(pattern, name string) bool {
	if pattern == "" || name == "" {
		return false
	}
	p, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
