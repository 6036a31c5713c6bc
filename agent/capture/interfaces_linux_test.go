package capture

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

func TestInterfacesAreListed(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "vA", "vB", 9000)
		tun := openTun(t, "tun0")
		must(t, poiptest.IP("link set vB down", "link add down0 type bridge"))
		poiptest.WaitUntil(t, "vA to lose its carrier", func() bool {
			out, err := ipOutput("-o", "link", "show", "vA")
			return err == nil && strings.Contains(out, "NO-CARRIER")
		})
		got, err := Interfaces()
		must(t, err)
		for _, want := range []InterfaceState{
			{Name: "lo", LinkType: pcap.LinkEthernet, MTU: 65536, Up: true, Running: true},
			{Name: "vA", LinkType: pcap.LinkEthernet, MTU: 9000, Up: true},
			{Name: "vB", LinkType: pcap.LinkEthernet, MTU: 9000},
			{Name: "tun0", LinkType: pcap.LinkRaw, MTU: 1500, Up: true, Running: true},
			{Name: "any", LinkType: pcap.LinkSLL2, Up: true, Running: true},
		} {
			if want.Name == "tun0" && tun == nil {
				continue
			}
			at := slices.IndexFunc(got, func(s InterfaceState) bool { return s.Name == want.Name })
			if at < 0 {
				t.Errorf("%s is missing", want.Name)
				continue
			}
			if want.Index = got[at].Index; got[at] != want || (want.Index == 0) != (want.Name == "any") {
				t.Errorf("got %+v, want %+v", got[at], want)
			}
		}
		if got[len(got)-1].Name != AnyInterface {
			t.Error("any is not the last one")
		}
	})
}

func TestLinkTypesAreLibpcaps(t *testing.T) {
	for _, c := range []struct {
		name     string
		hardware uint16
		want     pcap.LinkType
	}{
		{"eth0", unix.ARPHRD_ETHER, pcap.LinkEthernet},
		{"cdma_rmnet0", unix.ARPHRD_ETHER, pcap.LinkRaw},
		{"lo", unix.ARPHRD_LOOPBACK, pcap.LinkEthernet},
		{"mon0", unix.ARPHRD_IEEE80211_RADIOTAP, pcap.LinkRadiotap},
		{"wg0", unix.ARPHRD_NONE, pcap.LinkRaw},
		{"sit0", unix.ARPHRD_SIT, pcap.LinkRaw},
		{"tunl0", unix.ARPHRD_TUNNEL, pcap.LinkRaw},
		{"ppp0", unix.ARPHRD_PPP, pcap.LinkSLL2},
		{"gre0", unix.ARPHRD_IPGRE, pcap.LinkSLL2},
		{"ip6gre0", unix.ARPHRD_IP6GRE, pcap.LinkSLL2},
		{"ip6tnl0", unix.ARPHRD_TUNNEL6, pcap.LinkSLL2},
		{"ib0", unix.ARPHRD_INFINIBAND, pcap.LinkSLL2},
		{"can0", unix.ARPHRD_CAN, pcap.LinkSLL2},
		{"new0", 60000, pcap.LinkSLL2},
		{"any", 0, pcap.LinkSLL2},
	} {
		if got := linkTypeOf(c.name, c.hardware); got != c.want {
			t.Errorf("%s, hardware type %d: %v, want %v", c.name, c.hardware, got, c.want)
		}
	}
}
