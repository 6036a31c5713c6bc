package capture

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// sampleFrames are what a capture on Ethernet must deliver as it was.
func sampleFrames() map[string][]byte {
	v4 := etherType(typeIPv4)
	v6 := etherType(typeIPv6)
	return map[string][]byte{
		"60 bytes":      ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(1, 18)))),
		"64 bytes":      ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(2, 22)))),
		"1514 bytes":    ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(3, 1472)))),
		"jumbo":         ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(4, 8972)))),
		"largest":       ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(5, 65507)))),
		"VLAN":          ethernet(tag(0x8100, 5), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(6, 40)))),
		"VLAN priority": ethernet(tag(0x8100, 7<<13|100), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(7, 40)))),
		"priority tag":  ethernet(tag(0x8100, 0), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(8, 40)))),
		"802.1ad":       ethernet(tag(0x88a8, 99), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(9, 40)))),
		"QinQ":          ethernet(tag(0x88a8, 20), tag(0x8100, 30), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(10, 40)))),
		"old QinQ":      ethernet(tag(0x8100, 21), tag(0x8100, 31), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(11, 40)))),
		"VLAN jumbo":    ethernet(tag(0x8100, 6), v4, ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(12, 8972)))),
		"IPv6 first":    ethernet(v6, ip6("2001:db8::1", "2001:db8::2", 44, fragment6(17, 0, true, udp(7, 9, payload(13, 1400))))),
		"IPv6 last":     ethernet(v6, ip6("2001:db8::1", "2001:db8::2", 44, fragment6(17, 176, false, payload(14, 600)))),
		"IPv4 last":     ethernet(v4, ip4("192.0.2.1", "192.0.2.2", 17, 185, 0, payload(15, 600))),
		"ARP":           ethernet(etherType(0x0806), payload(16, 28)),
		"LLC":           ethernet(etherType(46), payload(17, 46)),
		"unknown type":  ethernet(etherType(0x88b5), payload(18, 46)),
		"bare header":   ethernet(etherType(0x88b5)),
	}
}

// everyLatency runs a test with each kind of ring.
func everyLatency(t *testing.T, test func(t *testing.T, latency Latency)) {
	t.Helper()
	poiptest.RunInNetns(t, func() {
		for _, latency := range []Latency{LatencyNormal, LatencyLow} {
			t.Run(string(latency), func(t *testing.T) { test(t, latency) })
		}
	})
}

func TestInterfaceDeliversFramesAsTheyWere(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 65535)
		// Both ends: what is sent keeps its tags in the frame, of what is
		// received the kernel takes them out.
		for _, end := range []string{pair + "A", pair + "B"} {
			t.Run(end, func(t *testing.T) {
				c := startCapture(t, &Interface{Name: end, Latency: latency})
				from := newInjector(t, pair+"A")
				before := time.Now()
				var want [][]byte
				for name, f := range sampleFrames() {
					t.Logf("frame %d is %s", len(want), name)
					from.send(f)
					want = append(want, f)
				}
				c.await(t, len(want))
				got := c.stop(t)
				expectFrames(t, got, want)
				for _, p := range got {
					if p.at.Before(before.Add(-time.Millisecond)) || p.at.After(time.Now()) {
						t.Errorf("packet was captured at %v, sent after %v", p.at, before)
					}
				}
				if c.info != (Info{LinkType: pcap.LinkEthernet, Snaplen: pcap.MaxCaptured, Description: end}) {
					t.Errorf("opened as %+v", c.info)
				}
			})
		}
	})
}

func expectFrames(t *testing.T, got []packet, want [][]byte) {
	t.Helper()
	var whole []packet
	for _, f := range want {
		whole = append(whole, packet{original: len(f), data: f})
	}
	expectPackets(t, got, whole)
}

func outline(b []byte) string { return fmt.Sprintf("%d bytes %x…", len(b), b[:min(len(b), 40)]) }

func TestInterfaceCutsAtSnaplen(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 65535)
		for _, snaplen := range []int{1, 13, 14, 15, 68, 1500, 5000} {
			c := startCapture(t, &Interface{Name: pair + "B", Latency: latency, Snaplen: uint32(snaplen)})
			from := newInjector(t, pair+"A")
			frames := sampleFrames()
			sent := [][]byte{frames["64 bytes"], frames["jumbo"], frames["VLAN"], frames["QinQ"], frames["largest"]}
			from.send(sent...)
			c.await(t, len(sent))
			for i, p := range c.stop(t) {
				want := sent[i][:min(snaplen, len(sent[i]))]
				if !bytes.Equal(p.data, want) || p.original != len(sent[i]) {
					t.Errorf("snaplen %d, frame %d: got %s of %d, want %s of %d", snaplen, i,
						outline(p.data), p.original, outline(want), len(sent[i]))
				}
			}
		}
	})
}
