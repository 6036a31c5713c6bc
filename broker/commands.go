package broker

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// commands are lines to paste for reading from an address at which the plan
// listens. They hold numbers only: Wireshark does not resolve names in TCP@.
func (p plan) commands(a net.Addr) []string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return []string{}
	}
	at := tcp.AddrPort()
	out := []string{}
	for _, addr := range p.reachable(at.Addr()) {
		at := netip.AddrPortFrom(addr, at.Port())
		switch {
		case p.config.TLS && p.asksForCertificate():
			out = append(out, fmt.Sprintf("ncat --ssl --ssl-cert analyst-bundle.pem --ssl-key analyst-bundle.pem --recv-only %s %d | wireshark -k -i -", addr, at.Port()))
		case p.config.TLS:
			out = append(out,
				fmt.Sprintf("ncat --ssl --recv-only %s %d | wireshark -k -i -", addr, at.Port()),
				fmt.Sprintf("ncat --ssl --recv-only %s %d | tcpdump -l -n -r -", addr, at.Port()))
		default:
			out = append(out, plainCommands(at)...)
		}
	}
	return out
}

func plainCommands(at netip.AddrPort) []string {
	source := "TCP@" + at.String()
	if at.Addr().Is6() {
		source = "'" + source + "'" // brackets mean something to shells
	}
	return []string{
		"wireshark -k -i " + source,
		"tshark -i " + source,
		fmt.Sprintf("nc %s %d | tcpdump -l -n -r -", at.Addr(), at.Port()),
	}
}

// reachable is the address itself, or for a wildcard the machine's own: of
// each family the first one that others can reach, if others may connect.
func (p plan) reachable(addr netip.Addr) []netip.Addr {
	if addr = addr.Unmap(); !addr.IsUnspecified() {
		return []netip.Addr{addr}
	}
	if !slices.ContainsFunc(p.allow, func(n netip.Prefix) bool { return !n.Addr().IsLoopback() }) {
		return p.loopback(addr.Is4())
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return primary(own, addr.Is4())
}

// loopback is where this machine itself may connect.
func (p plan) loopback(only4 bool) (out []netip.Addr) {
	for _, addr := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if p.admits(addr) && (addr.Is4() || !only4) {
			out = append(out, addr)
		}
	}
	return out
}

// primary chooses from the machine's addresses. What listens on the IPv6
// wildcard takes IPv4 as well.
func primary(own []net.Addr, only4 bool) []netip.Addr {
	var four, six netip.Addr
	for _, a := range own {
		network, err := netip.ParsePrefix(a.String())
		if err != nil || !network.Addr().IsGlobalUnicast() {
			continue
		}
		switch addr := network.Addr(); {
		case addr.Is4() && !four.IsValid():
			four = addr
		case addr.Is6() && !six.IsValid() && !only4:
			six = addr
		}
	}
	var out []netip.Addr
	for _, addr := range []netip.Addr{four, six} {
		if addr.IsValid() {
			out = append(out, addr)
		}
	}
	if len(out) == 0 {
		out = append(out, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return out
}
