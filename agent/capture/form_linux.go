package capture

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
)

// form makes of a packet in the ring what stood on the wire: the kernel keeps
// the outer VLAN tag beside the packet, and of cooked packets all that was in
// front of the network header. It writes into the room reserved for that in
// the ring.
type form struct {
	ethernet bool // tags go behind the two hardware addresses
	cooked   bool // a cooked header goes in front, with a tag behind it
	snaplen  int
}

func formOf(linkType pcap.LinkType, snaplen uint32) form {
	return form{ethernet: linkType == pcap.LinkEthernet, cooked: linkType == pcap.LinkSLL2, snaplen: int(snaplen)}
}

// slot is a packet in the ring, with the kernel's header at the beginning.
type slot struct {
	memory   []byte // from the kernel's header on
	address  int    // where the kernel's sockaddr_ll stands
	packet   int    // where the packet begins, captured bytes long
	captured int
	original uint32
	status   uint32
	tci      uint16 // of the tag, if status says that there is one
	tpid     uint16
}

const (
	addressesLen = 12 // of an Ethernet header
	tagged       = unix.TP_STATUS_VLAN_VALID
)

// whole returns the packet as it was, and its length on the wire.
func (f form) whole(s slot) (data []byte, original uint32) {
	switch {
	case f.cooked:
		return f.cook(s)
	case f.ethernet && s.status&tagged != 0:
		return s.withTag()
	}
	return s.memory[s.packet : s.packet+s.captured], s.original
}

// withTag moves the addresses to the front and puts the tag behind them.
func (s slot) withTag() ([]byte, uint32) {
	if s.captured < addressesLen { // cut short in front of the tag
		return s.memory[s.packet : s.packet+s.captured], s.original + tagLen
	}
	data := s.memory[s.packet-tagLen : s.packet+s.captured]
	copy(data, data[tagLen:tagLen+addressesLen])
	binary.BigEndian.PutUint16(data[addressesLen:], s.tagType())
	binary.BigEndian.PutUint16(data[addressesLen+2:], s.tci)
	return data, s.original + tagLen
}

func (s slot) tagType() uint16 {
	if s.status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
		return unix.ETH_P_8021Q // before Linux 3.14
	}
	return s.tpid
}

// cook puts the header of LINKTYPE_LINUX_SLL2 in front, all big-endian. A tag
// becomes what it is in packets that come with it: the protocol of the packet,
// which then begins with the tag's number and the protocol behind it. (libpcap
// leaves tags out here.)
//
//	0          2   4           8               10            11        12        20
//	+----------+---+-----------+---------------+-------------+---------+---------+
//	| protocol | 0 | interface | hardware type | packet type | address | address |
//	|          |   | index     | (ARPHRD_)     |             | length  |         |
//	+----------+---+-----------+---------------+-------------+---------+---------+
func (f form) cook(s slot) ([]byte, uint32) {
	from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&s.memory[s.address]))
	protocol := binary.BigEndian.Uint16(s.memory[s.address+2:])
	header := sll2Len
	if s.status&tagged != 0 {
		header += tagLen
	}
	data := s.memory[s.packet-header : s.packet+s.captured]
	if header > sll2Len {
		if from.Pkttype != unix.PACKET_OUTGOING && beginsWithTag(data[header:], protocol, s.original) {
			protocol = unix.ETH_P_8021Q
		}
		binary.BigEndian.PutUint16(data[sll2Len:], s.tci)
		binary.BigEndian.PutUint16(data[sll2Len+2:], protocol)
		protocol = s.tagType()
	}
	binary.BigEndian.PutUint16(data, protocol)
	binary.BigEndian.PutUint16(data[2:], 0)
	binary.BigEndian.PutUint32(data[4:], uint32(from.Ifindex))
	binary.BigEndian.PutUint16(data[8:], from.Hatype)
	data[10], data[11] = from.Pkttype, from.Halen
	copy(data[12:sll2Len], from.Addr[:])
	return data, s.original + uint32(header)
}

// beginsWithTag reports whether a received packet, whose outer tag the kernel
// has taken out, begins with an inner one. Kernels since 6.11 do not say: the
// protocol that they name is the one behind all tags. It stands again behind
// the tag's number, where an IPv4 packet has its length.
func beginsWithTag(data []byte, protocol uint16, original uint32) bool {
	if len(data) <= tagLen || binary.BigEndian.Uint16(data[2:]) != protocol {
		return false
	}
	switch protocol {
	case unix.ETH_P_IP:
		return data[tagLen]>>4 == 4 && (data[0]>>4 != 4 || original != unix.ETH_P_IP)
	case unix.ETH_P_IPV6:
		return data[tagLen]>>4 == 6
	}
	return true
}
