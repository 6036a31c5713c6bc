package capture

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// maxExclusions bounds the set. When it is full, the address that was used
// longest ago makes room.
const maxExclusions = 64

// An exclusion is one end of an uplink: packets to it and from it are the
// agent's own.
type exclusion struct {
	protocol uint8 // 6 is TCP, 17 is UDP
	end      netip.AddrPort
}

// Exclusions is the set of relay addresses whose traffic interface captures
// must not see: a capture that sees its own uplink sends ever more of it. One
// set is shared by all captures and uplinks of an agent. The zero value is
// empty and ready for use.
type Exclusions struct {
	mu       sync.Mutex
	ends     []exclusion // guarded by mu; used last is last
	held     []exclusion // guarded by mu; our own ends of live connections, each as often as it is held
	captures []*excluder // guarded by mu; the running captures
}

// excluder is how a running capture takes a new set.
type excluder struct {
	apply func([]exclusion) error // must not retain its argument
}

// Add puts addresses of a relay into the set; network is "tcp", "udp" or, for
// both, "". It is to be called before the first packet goes to a new address.
// When it returns without an error, the new set is in force in every running
// capture, in both directions.
func (x *Exclusions) Add(network string, addrs ...netip.AddrPort) error {
	protocols, ok := map[string][]uint8{"tcp": {6}, "udp": {17}, "": {6, 17}}[network]
	if !ok {
		return fmt.Errorf("exclude uplink from captures: network %q is not tcp or udp", network)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	changed := false
	for _, addr := range addrs {
		for _, protocol := range protocols {
			changed = x.use(exclusion{protocol, plainAddr(addr)}) || changed
		}
	}
	if !changed {
		return nil
	}
	return x.applyAll()
}

// Hold puts our own end of a connection to a relay into the set until release is
// called: on its way out a relay's address may be rewritten, by NAT on this very
// machine, and then it is only by ours that the packets are known. An address
// that says nothing, as that of a UDP socket for all interfaces, is passed over.
func (x *Exclusions) Hold(network string, local netip.AddrPort) (release func(), err error) {
	protocol, ok := map[string]uint8{"tcp": 6, "udp": 17}[network]
	if !ok || !local.IsValid() || local.Addr().IsUnspecified() {
		return func() {}, nil
	}
	e := exclusion{protocol, plainAddr(local)}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held = append(x.held, e)
	release = func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if at := slices.Index(x.held, e); at >= 0 {
			x.held = slices.Delete(x.held, at, at+1)
		}
		_ = x.applyAll() // too much is left out where it fails, and nothing of ours let in
	}
	return release, x.applyAll()
}

// all is what captures are to leave out; of our own ends no more than of others'.
func (x *Exclusions) all() []exclusion {
	all := slices.Clone(x.ends)
	for _, e := range x.held {
		if len(all) < len(x.ends)+maxExclusions && !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// plainAddr is the address as packets have it.
func plainAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// use notes that an end is used now, and reports whether it is new.
func (x *Exclusions) use(e exclusion) bool {
	if !e.end.IsValid() {
		return false
	}
	at := slices.Index(x.ends, e)
	switch {
	case at >= 0:
		x.ends = slices.Delete(x.ends, at, at+1)
	case len(x.ends) == maxExclusions:
		x.ends = slices.Delete(x.ends, 0, 1)
	}
	x.ends = append(x.ends, e)
	return at < 0
}

func (x *Exclusions) applyAll() error {
	all := x.all()
	var failed []error
	for _, c := range x.captures {
		if err := c.apply(all); err != nil {
			failed = append(failed, fmt.Errorf("exclude uplink from captures: %w", err))
		}
	}
	return errors.Join(failed...)
}

// enter applies the set to a capture, now and whenever it changes, until the
// returned leave. A nil set is an empty one.
func (x *Exclusions) enter(apply func([]exclusion) error) (leave func(), err error) {
	if x == nil {
		return func() {}, apply(nil)
	}
	c := &excluder{apply}
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := apply(x.all()); err != nil {
		return nil, err
	}
	x.captures = append(x.captures, c)
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.captures = slices.DeleteFunc(x.captures, func(other *excluder) bool { return other == c })
	}, nil
}
