package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"poip/internal/poiptest"
)

// A branch is where an agent runs that has a link of its own to the relay: a
// network namespace across a veth pair. Relay and analysts are on this side.
type branch struct {
	*poiptest.Netns
	t *testing.T
}

// The two ends of the link.
const (
	relaySide  = "198.51.100.1"
	branchSide = "198.51.100.2"
)

// newBranch is to be called in a network namespace.
func newBranch(t *testing.T) *branch {
	t.Helper()
	b := &branch{poiptest.NewNetns(t), t}
	poiptest.Veth(t, "wan0", "wan1", 1500)
	b.must(poiptest.IP("link set wan1 netns "+b.Path, "addr add "+relaySide+"/24 dev wan0"))
	b.Do(func() {
		b.must(poiptest.IP("addr add "+branchSide+"/24 dev wan1", "link set wan1 up"))
		b.nft("add table ip cut", "add chain ip cut in { type filter hook input priority 0; }")
	})
	b.nft("add table ip cut", "add chain ip cut in { type filter hook input priority 0; }")
	poiptest.AwaitLink(t, "wan0")
	return b
}

// relayTOML is a relay's configuration that listens for agents on the link,
// and gives each stream a port.
func (b *branch) relayTOML(w *world) string {
	toml := w.relayTOML("", listenerTOML{"each", "127.0.0.1:57100-57109", "each = true\n" + plainOldest})
	return strings.NewReplacer(
		`tcp = "127.0.0.1:0"`, fmt.Sprintf("tcp = \"%s:57011\"", relaySide),
		`quic = "127.0.0.1:0"`, fmt.Sprintf("quic = \"%s:57011\"", relaySide)).Replace(toml)
}

// cut has both ends drop whatever arrives, without a word to who sent it;
// mend ends that.
func (b *branch) cut() {
	b.nft("add rule ip cut in iifname wan0 drop")
	b.Do(func() { b.nft("add rule ip cut in iifname wan1 drop") })
}

func (b *branch) mend() {
	b.nft("flush chain ip cut in")
	b.Do(func() { b.nft("flush chain ip cut in") })
}

func (b *branch) nft(commands ...string) {
	for _, c := range commands {
		if out, err := exec.Command("nft", c).CombinedOutput(); err != nil {
			b.t.Errorf("nft %s: %v: %s", c, err, out)
		}
	}
}

func (b *branch) must(err error) {
	if err != nil {
		b.t.Error(err) // not Fatal: this may be the goroutine of the namespace
	}
}
