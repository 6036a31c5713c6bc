package capture

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
)

// linkTypes maps the kernel's hardware types (linux/if_arp.h) to what their
// packets look like on a raw packet socket. It is libpcap's table
// (map_arphrd_to_dlt in pcap-linux.c); for what is not in it, PPP and most
// tunnels among them, libpcap and we take cooked packets instead. libpcap makes
// those SLL and we SLL2, which also says which interface it was.
var linkTypes = map[uint16]pcap.LinkType{
	unix.ARPHRD_ETHER: pcap.LinkEthernet, unix.ARPHRD_METRICOM: pcap.LinkEthernet, unix.ARPHRD_LOOPBACK: pcap.LinkEthernet,

	// No link header: the packets are IP.
	unix.ARPHRD_NONE: pcap.LinkRaw, unix.ARPHRD_TUNNEL: pcap.LinkRaw, unix.ARPHRD_SIT: pcap.LinkRaw,
	unix.ARPHRD_SLIP: pcap.LinkRaw, unix.ARPHRD_CSLIP: pcap.LinkRaw, unix.ARPHRD_SLIP6: pcap.LinkRaw,
	unix.ARPHRD_CSLIP6: pcap.LinkRaw, unix.ARPHRD_ADAPT: pcap.LinkRaw, unix.ARPHRD_RAWHDLC: pcap.LinkRaw,
	unix.ARPHRD_DLCI: pcap.LinkRaw,

	unix.ARPHRD_IEEE80211_RADIOTAP: pcap.LinkRadiotap, unix.ARPHRD_IEEE80211_PRISM: 119, unix.ARPHRD_IEEE80211: 105,
	unix.ARPHRD_IEEE802154: 230,

	unix.ARPHRD_IEEE802: 6, unix.ARPHRD_IEEE802_TR: 6, unix.ARPHRD_EETHER: 2, unix.ARPHRD_AX25: 202,
	unix.ARPHRD_PRONET: 4, unix.ARPHRD_CHAOS: 5, unix.ARPHRD_ARCNET: 129, unix.ARPHRD_FDDI: 10,
	unix.ARPHRD_LOCALTLK: 114, unix.ARPHRD_FRAD: 107, unix.ARPHRD_CISCO: 104, unix.ARPHRD_VSOCKMON: 271,
	18:               122, // IP over Fibre Channel, RFC 4338
	unix.ARPHRD_FCPP: 224, unix.ARPHRD_FCAL: 224, unix.ARPHRD_FCPL: 224, unix.ARPHRD_FCFABRIC: 224,
}

// linkTypeOf is the link type of captures on an interface.
func linkTypeOf(name string, hardware uint16) pcap.LinkType {
	if name == AnyInterface {
		return pcap.LinkSLL2
	}
	if hardware == unix.ARPHRD_ETHER && strings.HasPrefix(name, "cdma_rmnet") {
		return pcap.LinkRaw // Android's modems pretend, says libpcap
	}
	if t, ok := linkTypes[hardware]; ok {
		return t
	}
	return pcap.LinkSLL2
}

// linkTypeNow is the link type of an interface, or Ethernet if there is none of
// that name.
func linkTypeNow(name string) (pcap.LinkType, error) {
	watch, err := newLinkWatch(name)
	if err != nil {
		return 0, err
	}
	defer watch.close()
	l, err := watch.look()
	if errors.Is(err, unix.ENODEV) {
		return pcap.LinkEthernet, nil
	}
	return l.linkType, err
}

// loopsBack reports whether the interface hands over what is sent on it a
// second time, as received.
func loopsBack(hardware uint16) bool {
	return hardware == unix.ARPHRD_LOOPBACK || hardware == unix.ARPHRD_CAN
}
