package capture

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"poip/internal/poiptest"
)

// relayHost is a namespace across a link, with services on several addresses
// that send everything back.
type relayHost struct {
	t     *testing.T
	ns    *poiptest.Netns
	near  string // our end of the link
	serve sync.WaitGroup
}

func newRelayHost(t *testing.T) *relayHost {
	t.Helper()
	h := &relayHost{t: t, ns: poiptest.NewNetns(t), near: "uplink"}
	t.Cleanup(h.serve.Wait)
	poiptest.Veth(t, "uplink", "relay", 1500)
	must(t, poiptest.IP("link set relay netns "+h.ns.Path))
	allowIPv6(t)
	must(t, poiptest.IP("addr add 10.9.0.1/24 dev uplink", "addr add 2001:db8:9::1/64 dev uplink nodad"))
	h.ns.Do(func() {
		allowIPv6(t)
		must(t, poiptest.IP("link set relay up"))
		for _, host := range []string{"2", "3"} {
			must(t, poiptest.IP("addr add 10.9.0."+host+"/24 dev relay", "addr add 2001:db8:9::"+host+"/64 dev relay nodad"))
		}
	})
	poiptest.AwaitLink(t, "uplink")
	return h
}

// echo starts a service that ends with the test.
func (h *relayHost) echo(network string, at netip.AddrPort) {
	h.t.Helper()
	h.ns.Do(func() {
		switch network {
		case "tcp":
			l, err := net.Listen(network, at.String())
			must(h.t, err)
			h.t.Cleanup(func() { l.Close() })
			h.serve.Go(func() { echoStreams(l) })
		case "udp":
			c, err := net.ListenPacket(network, at.String())
			must(h.t, err)
			h.t.Cleanup(func() { c.Close() })
			h.serve.Go(func() { echoDatagrams(c) })
		}
	})
}

func echoStreams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(conn, conn)
		conn.Close()
	}
}

func echoDatagrams(c net.PacketConn) {
	buf := make([]byte, 65536)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(buf[:n], from)
	}
}

// talk exchanges a lot with a service.
func talk(t *testing.T, network string, with netip.AddrPort) {
	t.Helper()
	conn, err := net.Dial(network, with.String())
	must(t, err)
	defer conn.Close()
	sizes := []int{1, 100, 1400}
	if network == "tcp" {
		sizes = append(sizes, 1<<20) // with segmentation offload
	}
	for _, n := range sizes {
		sent := make(chan error, 1)
		go func() { _, err := conn.Write(payload(1, n)); sent <- err }()
		_, err := io.ReadFull(conn, make([]byte, n))
		must(t, errors.Join(err, <-sent))
	}
}

// conversations counts the packets from or to each end, by protocol.
func conversations(packets []packet, header int) map[exclusion]int {
	seen := map[exclusion]int{}
	for _, p := range packets {
		ip := p.data[header:]
		v := net4
		if ip[0]>>4 == 6 {
			v = net6
		}
		protocol, segment := ip[v.protocol], ip[v.header:]
		if protocol != 6 && protocol != 17 {
			continue
		}
		for at, port := range map[uint32]int{v.from: 0, v.to: 2} {
			addr, _ := netip.AddrFromSlice(ip[at : at+uint32(v.address)])
			seen[exclusion{protocol, netip.AddrPortFrom(addr, binary.BigEndian.Uint16(segment[port:]))}]++
		}
	}
	return seen
}

// The agent's own traffic does not appear, in either direction, while a
// neighbor's to the same machine does; and it still does not after the relay
// got another address.
func TestInterfaceNeverSeesTheUplink(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		h := newRelayHost(t)
		for name, header := range map[string]int{h.near: 14, AnyInterface: sll2Len} {
			x := new(Exclusions)
			c := startCapture(t, &Interface{Name: name, Latency: latency, Filter: "ip or ip6", Exclude: x})
			var own, others []exclusion
			base := uint16(7100) + 20*uint16(header) + map[Latency]uint16{LatencyLow: 10}[latency]
			for k, end := range []struct{ network, addr string }{
				{"tcp", "10.9.0.2"}, {"udp", "10.9.0.2"}, {"tcp", "2001:db8:9::2"}, {"udp", "2001:db8:9::2"},
				{"tcp", "10.9.0.3"}, {"udp", "2001:db8:9::3"}, // the changed addresses
			} {
				protocol := map[string]uint8{"tcp": 6, "udp": 17}[end.network]
				at := netip.AddrPortFrom(netip.MustParseAddr(end.addr), base)
				beside := netip.AddrPortFrom(at.Addr(), base+1+uint16(k))
				h.echo(end.network, at)
				h.echo(end.network, beside)
				must(t, x.Add(end.network, at))
				talk(t, end.network, at)
				talk(t, end.network, beside)
				own, others = append(own, exclusion{protocol, at}), append(others, exclusion{protocol, beside})
			}
			seen := conversations(c.stop(t), header)
			for k := range own {
				if n := seen[own[k]]; n > 0 {
					t.Errorf("%s: %d packets of the uplink %v are captured", name, n, own[k])
				}
				if seen[others[k]] < 6 {
					t.Errorf("%s: %d packets of a neighbor %v are captured", name, seen[others[k]], others[k])
				}
			}
		}
	})
}

// The code that the kernel runs concludes the same as in user space, for
// frames as they are and, on all interfaces at once, without their link header
// and with the tag elsewhere.
func TestUplinkIsExcludedByTheKernel(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		poiptest.Veth(t, "vA", "vB", 1500)
		for _, name := range []string{"vA", "vB", AnyInterface} {
			x := new(Exclusions)
			for _, e := range uplinkEnds {
				must(t, x.Add(map[uint8]string{6: "tcp", 17: "udp"}[e.protocol], e.end))
			}
			c := startCapture(t, &Interface{Name: name, Latency: latency, Exclude: x})
			from := newInjector(t, "vA")
			want, copies := map[string]int{}, 1
			if name == AnyInterface {
				copies = 2 // sent and received
			}
			total := 0
			for _, f := range uplinkFrames() {
				if len(f.frame) < 18 || f.name == "three tags" {
					continue // the kernel drops those, and looks deeper than we do
				}
				from.send(f.frame)
				if !f.excluded {
					want[string(f.frame)] += copies
					total += copies
				}
			}
			c.await(t, total)
			got := c.stop(t)
			if len(got) != total {
				t.Errorf("%s: %d packets are captured, want %d", name, len(got), total)
			}
			for _, p := range got {
				if name != AnyInterface {
					if want[string(p.data)]--; want[string(p.data)] < 0 {
						t.Errorf("%s: unexpected %s", name, outline(p.data))
					}
				}
			}
		}
	})
}

// Kernels before 6.5 give a socket 20 KiB for filters, the old and the new one
// together.
func TestFilterWithExclusionsFitsOldKernels(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		x := new(Exclusions)
		must(t, x.Add("", addrPort("192.0.2.9:57011"), addrPort("[2001:db8::9]:57011")))
		setOptmem(t, "20480")
		c := startCapture(t, &Interface{Name: "lo", Filter: "tcp port 80 or udp port 53 or (vlan and host 192.0.2.1)", Exclude: x})
		must(t, x.Add("", addrPort("192.0.2.10:57011"), addrPort("[2001:db8::10]:57011")))
		c.stop(t)
		if strings.Contains(c.log.String(), "WARN") {
			t.Error(c.log)
		}
	})
}
