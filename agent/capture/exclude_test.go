package capture

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/bpf"

	"poip/internal/pcap"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestExclusionsKeepTheLatest(t *testing.T) {
	var x Exclusions
	var inForce []exclusion
	applied := 0
	leave, err := x.enter(func(ends []exclusion) error { inForce = slices.Clone(ends); applied++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	end := func(i int) netip.AddrPort { return addrPort(fmt.Sprintf("192.0.2.%d:57011", i)) }
	for i := range maxExclusions {
		if err := x.Add("tcp", end(i)); err != nil {
			t.Fatal(err)
		}
	}
	x.Add("tcp", end(0)) // used again: it stays
	x.Add("tcp", end(maxExclusions))
	if len(inForce) != maxExclusions || slices.Contains(inForce, exclusion{6, end(1)}) || !slices.Contains(inForce, exclusion{6, end(0)}) {
		t.Errorf("in force are %v", inForce)
	}
	if want := 1 + maxExclusions + 1; applied != want {
		t.Errorf("applied %d times, want %d: a known address changes nothing", applied, want)
	}
	leave()
	x.Add("tcp", end(100))
	if slices.Contains(inForce, exclusion{6, end(100)}) {
		t.Error("a capture that has ended was told of a new address")
	}
}

func TestExclusionsReduceAddresses(t *testing.T) {
	var x Exclusions
	err := x.Add("", addrPort("[::ffff:192.0.2.1]:5"), addrPort("[fe80::1%eth0]:5"), netip.AddrPort{})
	want := []exclusion{{6, addrPort("192.0.2.1:5")}, {17, addrPort("192.0.2.1:5")}, {6, addrPort("[fe80::1]:5")}, {17, addrPort("[fe80::1]:5")}}
	if err != nil || !slices.Equal(x.ends, want) {
		t.Errorf("got %v, %v", x.ends, err)
	}
	if x.Add("tls") == nil {
		t.Error("network tls was accepted")
	}
}

func TestExclusionsReportFailure(t *testing.T) {
	var x Exclusions
	broken := errors.New("broken")
	var outcome error
	leave, err := x.enter(func([]exclusion) error { return outcome })
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	outcome = broken
	if err := x.Add("tcp", addrPort("192.0.2.1:5")); !errors.Is(err, broken) {
		t.Errorf("Add returned %v", err)
	}
	if _, err := x.enter(func([]exclusion) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("enter returned %v", err)
	}
}

// uplinkFrame is a frame with what the code has to conclude from it.
type uplinkFrame struct {
	name     string
	frame    []byte // with 14 bytes of Ethernet in front
	excluded bool
}

var uplinkEnds = []exclusion{
	{6, addrPort("192.0.2.9:57011")}, {17, addrPort("192.0.2.9:57011")},
	{6, addrPort("198.51.100.7:443")},
	{6, addrPort("[2001:db8::9]:57011")}, {17, addrPort("[2001:db8:1::9]:57011")},
}

// uplinkFrames has each packet plain, tagged, and in PPPoE.
func uplinkFrames() (frames []uplinkFrame) {
	add := func(name string, version uint16, ip []byte, excluded bool) {
		ppp := map[uint16]uint16{typeIPv4: pppIPv4, typeIPv6: pppIPv6}[version]
		t := etherType(version)
		for wrapping, f := range map[string][]byte{
			"":                 ethernet(t, ip),
			" tagged":          ethernet(tag(0x8100, 5), t, ip),
			" QinQ":            ethernet(tag(0x88a8, 5), tag(0x8100, 6), t, ip),
			" in PPPoE":        ethernet(pppoe(ppp, len(ip)), ip),
			" tagged in PPPoE": ethernet(tag(0x8100, 7), pppoe(ppp, len(ip)), ip),
		} {
			frames = append(frames, uplinkFrame{name + wrapping, f, excluded})
		}
	}
	data := payload(1, 30)
	v4 := func(name, from, to string, protocol byte, fragment uint16, options int, segment []byte, excluded bool) {
		add(name, typeIPv4, ip4(from, to, protocol, fragment, options, segment), excluded)
	}
	v6 := func(name, from, to string, next byte, segment []byte, excluded bool) {
		add(name, typeIPv6, ip6(from, to, next, segment), excluded)
	}
	v4("TCP to", "192.0.2.1", "192.0.2.9", 6, 0, 0, tcp(4000, 57011, data), true)
	v4("TCP from", "192.0.2.9", "192.0.2.1", 6, 0, 0, tcp(57011, 4000, data), true)
	v4("UDP to", "192.0.2.1", "192.0.2.9", 17, 0, 0, udp(4000, 57011, data), true)
	v4("UDP from", "192.0.2.9", "192.0.2.1", 17, 0, 0, udp(57011, 4000, data), true)
	v4("with options", "192.0.2.1", "192.0.2.9", 6, 0, 12, tcp(4000, 57011, data), true)
	v4("with most options", "192.0.2.1", "192.0.2.9", 6, 0, 40, tcp(4000, 57011, nil), true)
	v4("no data", "192.0.2.1", "192.0.2.9", 17, 0, 0, udp(4000, 57011, nil), true)
	v4("first fragment", "192.0.2.1", "192.0.2.9", 17, 0x2000, 0, udp(4000, 57011, data), true)
	v4("other end's TCP", "192.0.2.1", "198.51.100.7", 6, 0, 0, tcp(4000, 443, data), true)
	v4("other end's UDP", "192.0.2.1", "198.51.100.7", 17, 0, 0, udp(4000, 443, data), false)
	v4("later fragment", "192.0.2.1", "192.0.2.9", 17, 100, 0, udp(4000, 57011, data), false)
	v4("other port", "192.0.2.1", "192.0.2.9", 6, 0, 0, tcp(4000, 57012, data), false)
	v4("port on our side", "192.0.2.1", "192.0.2.9", 6, 0, 0, tcp(57011, 4000, data), false)
	v4("ends mixed up", "192.0.2.1", "192.0.2.9", 6, 0, 0, tcp(4000, 443, data), false)
	v4("other address", "192.0.2.1", "192.0.2.8", 6, 0, 0, tcp(4000, 57011, data), false)
	v4("ICMP", "192.0.2.1", "192.0.2.9", 1, 0, 0, tcp(4000, 57011, data), false)
	v4("SCTP", "192.0.2.1", "192.0.2.9", 132, 0, 0, tcp(4000, 57011, data), false)
	v6("TCP to", "2001:db8::1", "2001:db8::9", 6, tcp(4000, 57011, data), true)
	v6("TCP from", "2001:db8::9", "2001:db8::1", 6, tcp(57011, 4000, data), true)
	v6("UDP to", "2001:db8::1", "2001:db8:1::9", 17, udp(4000, 57011, data), true)
	v6("UDP from", "2001:db8:1::9", "2001:db8::1", 17, udp(57011, 4000, data), true)
	v6("UDP without data", "2001:db8::1", "2001:db8:1::9", 17, udp(4000, 57011, nil), true)
	v6("same last word", "2001:db8::1", "2001:db8:2::9", 6, tcp(4000, 57011, data), false)
	v6("other protocol", "2001:db8::1", "2001:db8:1::9", 6, tcp(4000, 57011, data), false)
	v6("other port", "2001:db8::1", "2001:db8::9", 6, tcp(4000, 57012, data), false)
	v6("fragment", "2001:db8::1", "2001:db8:1::9", 44, fragment6(17, 0, true, udp(4000, 57011, data)), false)
	v6("ICMPv6", "2001:db8::1", "2001:db8::9", 58, payload(1, 8), false)
	for name, f := range map[string][]byte{
		"ARP": ethernet(etherType(0x0806), payload(1, 28)), "LLC": ethernet(etherType(40), payload(1, 40)),
		"empty": {}, "short": {1, 2, 3}, "only addresses": ethernet(), "tag cut off": ethernet(etherType(0x8100), []byte{0}),
		"three tags":            ethernet(tag(0x8100, 1), tag(0x8100, 2), tag(0x8100, 3), etherType(typeIPv4), ip4("192.0.2.1", "192.0.2.9", 6, 0, 0, tcp(4000, 57011, data))),
		"PPPoE, other protocol": ethernet(pppoe(0xc021, 20), payload(1, 20)),
	} {
		frames = append(frames, uplinkFrame{name, f, false})
	}
	return frames
}

// matcherOf runs a program in user space. It has to be free of the kernel's
// extensions, as programs for Ethernet are.
func matcherOf(t testing.TB, p prologue) func(frame []byte) bool {
	t.Helper()
	program, err := p.before(nil, pcap.MaxCaptured)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkProgram(program); err != nil {
		t.Fatal(err)
	}
	match, err := NewMatcher(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(frame []byte) bool { return match(0, frame) }
}

func TestUplinkIsExcluded(t *testing.T) {
	passes := matcherOf(t, prologue{linkType: pcap.LinkEthernet, exclude: uplinkEnds})
	for _, f := range uplinkFrames() {
		if got := !passes(f.frame); got != f.excluded {
			t.Errorf("%s: excluded is %v, want %v", f.name, got, f.excluded)
		}
	}
}

// A packet that is cut anywhere, or garbled, is excluded only if it still
// says that it is the uplink's; in particular no load beyond its end rejects it.
func TestUplinkCodeLetsBrokenPacketsThrough(t *testing.T) {
	passes := matcherOf(t, prologue{linkType: pcap.LinkEthernet, exclude: uplinkEnds})
	dice := rand.New(rand.NewPCG(1, 2))
	for _, f := range uplinkFrames() {
		for n := range f.frame {
			if cut := f.frame[:n]; !passes(cut) && (!f.excluded || n < 14+20+4) {
				t.Errorf("%s, cut to %d bytes, is excluded", f.name, n)
			}
		}
		if f.excluded {
			continue
		}
		for range 20 {
			broken := slices.Clone(f.frame)
			if len(broken) < 15 {
				continue
			}
			broken[14] = byte(dice.Uint32()) // version and header length
			passes(broken[:14+dice.IntN(len(broken)-14)])
		}
	}
}

func TestUplinkCodeStaysSmall(t *testing.T) {
	var few, many []exclusion
	for i := range maxExclusions {
		e := exclusion{6, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}), 57011)}
		if many = append(many, e); i < 2 {
			few = append(few, e, exclusion{6, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 57011)})
		}
	}
	for _, c := range []struct {
		ends    []exclusion
		longest int
	}{{few, 300}, {many, 2500}} {
		program, err := prologue{linkType: pcap.LinkEthernet, exclude: c.ends}.before(nil, 100)
		if err != nil || len(program) > c.longest {
			t.Errorf("%d ends make %d instructions, want at most %d (%v)", len(c.ends), len(program), c.longest, err)
		}
	}
	if _, err := (prologue{linkType: pcap.LinkEthernet, exclude: many}).before(make([]bpf.RawInstruction, maxProgram), 1); err == nil {
		t.Error("a program that is too long was not refused")
	}
}
