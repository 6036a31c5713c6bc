package auth

import (
	"fmt"
	"slices"
)

// MayPublish says whether the sensor that a certificate names may publish a
// stream: under its own name only.
func MayPublish(id SensorName, stream StreamName) error {
	if id == "" || stream.Capture == "" {
		return fmt.Errorf("publish %q: no identity or no name", stream)
	}
	if stream.Sensor != id {
		return fmt.Errorf("publish %q: the certificate is that of sensor %q", stream, string(id))
	}
	return nil
}

// A Grant is a set of streams that may be read. Its zero value has none.
type Grant struct{ patterns []Pattern }

// GrantOf has the streams that any of the patterns matches.
func GrantOf(patterns ...Pattern) Grant { return Grant{slices.Clone(patterns)} }

// Has reports whether the stream may be read.
func (g Grant) Has(name StreamName) bool {
	return slices.ContainsFunc(g.patterns, func(p Pattern) bool { return p.Match(name) })
}

// Meets reports whether there can be a stream that both grants have.
func (g Grant) Meets(h Grant) bool {
	return slices.ContainsFunc(g.patterns, func(p Pattern) bool {
		return slices.ContainsFunc(h.patterns, p.Meets)
	})
}
