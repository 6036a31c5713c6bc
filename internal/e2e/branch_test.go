package e2e

import (
	"fmt"
	"strings"
	"testing"

	"poip/internal/poiptest"
)

// A branch is where an agent runs that has a link of its own to the relay.
// Relay and analysts are on this side.
type branch struct{ *poiptest.Branch }

const relaySide = poiptest.RelaySide

// newBranch is to be called in a network namespace.
func newBranch(t *testing.T) *branch {
	t.Helper()
	return &branch{poiptest.NewBranch(t)}
}

// relayTOML is a relay's configuration that listens for agents on the link,
// and gives each stream a port.
func (b *branch) relayTOML(w *world) string {
	toml := w.relayTOML("", listenerTOML{"each", "127.0.0.1:57100-57109", "each = true\n" + plainOldest})
	return strings.NewReplacer(
		`tcp = "127.0.0.1:0"`, fmt.Sprintf("tcp = \"%s:57011\"", relaySide),
		`quic = "127.0.0.1:0"`, fmt.Sprintf("quic = \"%s:57011\"", relaySide)).Replace(toml)
}
