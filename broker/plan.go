package broker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"poip/auth"
)

// A plan is the configuration of one listener, checked and taken apart.
type plan struct {
	config    ListenerConfig
	host      netip.Addr // the zero Addr: all addresses
	low, high uint16     // ports; equal unless Each
	patterns  []auth.Pattern
	allow     []netip.Prefix
	deny      []netip.Prefix // wins
	terms     terms
}

func (l ListenerConfig) compile() (plan, error) {
	l = l.withDefaults()
	p := plan{config: l}
	errs := l.check()
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := auth.ParseCaptureName(l.Name); err != nil {
		keep(fmt.Errorf("key name: %q: use a-z, 0-9 and, not in front, . _ -", l.Name))
	}
	err := p.compileListen()
	keep(err)
	p.patterns, err = compilePatterns(l.Streams)
	keep(err)
	p.allow, err = compileNetworks("allow", l.Allow)
	keep(err)
	p.deny, err = compileNetworks("deny", l.Deny)
	keep(err)
	begin, err := parseStart(l.Start)
	keep(err)
	p.terms = terms{
		form:       form{nano: l.Format == "pcap-ns", snaplen: uint32(l.Snaplen)},
		disconnect: l.Overflow == "disconnect",
		block:      l.Overflow == "block",
		start:      begin,
		close:      l.End == "close",
	}
	return p, errors.Join(errs...)
}

func (p *plan) compileListen() error {
	var err error
	if p.host, p.low, p.high, err = parseListen(p.config.Listen); err != nil {
		return fmt.Errorf("key listen: %w", err)
	}
	if p.low != p.high && !p.config.Each {
		return fmt.Errorf("key listen: %s is a range of ports: set each = true for one port per stream, or name one port", p.config.Listen)
	}
	if p.config.Each && p.low == 0 {
		return fmt.Errorf("key listen: %s: each needs ports that stay the same, as in 57100-57199", p.config.Listen)
	}
	if !p.config.TLS && !p.host.IsLoopback() && !p.config.AllowPlaintext {
		return fmt.Errorf("key listen: %s is not loopback and the listener is plain: set tls = true, or allow_plaintext = true to send packets unencrypted", p.config.Listen)
	}
	return nil
}

func compileNetworks(key string, networks []string) (out []netip.Prefix, err error) {
	for _, s := range networks {
		network, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("key %s: %q is not a network: write 192.0.2.0/24, or 192.0.2.7/32 for one address", key, s)
		}
		if network.Addr().Is4In6() {
			return nil, fmt.Errorf("key %s: %q: write the IPv4 network itself", key, s)
		}
		out = append(out, network.Masked())
	}
	return out, nil
}

// parseListen takes "127.0.0.1:57012", "[::1]:57100-57199" or ":57012" apart.
// Names are not resolved: what is bound should be what is written.
func parseListen(s string) (host netip.Addr, low, high uint16, err error) {
	name, ports, err := net.SplitHostPort(s)
	if err != nil {
		return host, 0, 0, fmt.Errorf("%q is not an address and port: write 127.0.0.1:57012 or [::1]:57012", s)
	}
	if name != "" {
		if host, err = netip.ParseAddr(name); err != nil {
			return host, 0, 0, fmt.Errorf("%q: write an IP address, not a name", s)
		}
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	from, errFrom := strconv.ParseUint(first, 10, 16)
	to, errTo := strconv.ParseUint(last, 10, 16)
	if errFrom != nil || errTo != nil || from > to || ranged && from == 0 {
		return host, 0, 0, fmt.Errorf("%q: want one port, 0 to 65535, or a range as in 57100-57199", s)
	}
	return host, uint16(from), uint16(to), nil
}

// collides says whether both would bind the same address and port.
func (p plan) collides(q plan) bool {
	if p.high == 0 || q.high == 0 || p.high < q.low || q.high < p.low {
		return false
	}
	wild := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	return wild(p.host) || wild(q.host) || p.host == q.host
}

func (p plan) matches(name auth.StreamName) bool {
	return slices.ContainsFunc(p.patterns, func(pattern auth.Pattern) bool { return pattern.Match(name) })
}

// admits says whether the allow list has the address, and deny has it not. An
// empty allow list has none.
func (p plan) admits(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	has := func(network netip.Prefix) bool { return network.Contains(addr) }
	return slices.ContainsFunc(p.allow, has) && !slices.ContainsFunc(p.deny, has)
}

func (p plan) asksForCertificate() bool { return p.config.ClientAuth == "cert" }

// address is where a door of the plan listens.
func (p plan) address(port uint16) string {
	host := ""
	if p.host.IsValid() {
		host = p.host.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// serves says whether a listener of this plan could go on as one of q, and its
// connections with it: where it listens, and what they were given at their
// beginning and cannot be given otherwise now, is the same. What else differs
// is for those that come, or is settled by regrant and sendHome.
func (p plan) serves(q plan) bool {
	fixed := func(l ListenerConfig) string {
		return fmt.Sprint(l.Name, l.Listen, l.Each, l.TLS, l.ClientAuth, l.Format, l.Snaplen)
	}
	return fixed(p.config) == fixed(q.config)
}
