package poiptest

import (
	"os/exec"
	"testing"
)

// The two ends of a Branch's link.
const (
	RelaySide  = "198.51.100.1"
	BranchSide = "198.51.100.2"
)

// A Branch is where an agent runs that has a link of its own to the relay: a
// network namespace across a veth pair. Relay and analysts are on this side.
type Branch struct {
	*Netns
	tb testing.TB
}

// NewBranch is to be called in a network namespace.
func NewBranch(tb testing.TB) *Branch {
	tb.Helper()
	b := &Branch{NewNetns(tb), tb}
	Veth(tb, "wan0", "wan1", 1500)
	b.Must(IP("link set wan1 netns "+b.Path, "addr add "+RelaySide+"/24 dev wan0"))
	table := []string{"add table ip cut", "add chain ip cut in { type filter hook input priority 0; }"}
	b.Do(func() {
		b.Must(IP("addr add "+BranchSide+"/24 dev wan1", "link set wan1 up"))
		b.Nft(table...)
	})
	b.Nft(table...)
	AwaitLink(tb, "wan0")
	return b
}

// Cut has both ends drop whatever arrives, without a word to who sent it; Mend
// ends that.
func (b *Branch) Cut() {
	b.Deafen()
	b.Do(func() { b.Nft("add rule ip cut in iifname wan1 drop") })
}

// Deafen has this side, the relay's, drop whatever arrives; what it sends goes
// on to arrive at the branch.
func (b *Branch) Deafen() { b.Nft("add rule ip cut in iifname wan0 drop") }

// Mend undoes Cut and Deafen.
func (b *Branch) Mend() {
	b.Nft("flush chain ip cut in")
	b.Do(func() { b.Nft("flush chain ip cut in") })
}

// Nft runs nft(8) with each command, on the side where it is called.
func (b *Branch) Nft(commands ...string) {
	for _, c := range commands {
		if out, err := exec.Command("nft", c).CombinedOutput(); err != nil {
			b.tb.Errorf("nft %s: %v: %s", c, err, out)
		}
	}
}

// Must reports an error, and goes on: this may be the goroutine of the
// namespace.
func (b *Branch) Must(err error) {
	if err != nil {
		b.tb.Error(err)
	}
}
