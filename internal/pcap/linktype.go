package pcap

import "fmt"

// LinkType is a LINKTYPE_ value of https://www.tcpdump.org/linktypes.html.
// File headers hold it in the low 16 bits of their last word.
type LinkType uint16

// The link types that captures of this project produce themselves.
const (
	LinkEthernet LinkType = 1
	LinkRaw      LinkType = 101 // raw IPv4 or IPv6
	LinkSLL      LinkType = 113
	LinkRadiotap LinkType = 127
	LinkSLL2     LinkType = 276 // Linux cooked, version 2: the interface "any"
)

func (l LinkType) String() string {
	switch l {
	case LinkEthernet:
		return "EN10MB"
	case LinkRaw:
		return "RAW"
	case LinkSLL:
		return "LINUX_SLL"
	case LinkRadiotap:
		return "IEEE802_11_RADIO"
	case LinkSLL2:
		return "LINUX_SLL2"
	}
	return fmt.Sprintf("LINKTYPE_%d", uint16(l))
}
