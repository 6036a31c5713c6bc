package capture

import (
	"encoding/binary"
	"net/netip"
)

// Frames for tests are put together from the inside out.

// payload is n bytes that differ from frame to frame.
func payload(seed byte, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = seed + byte(i*7)
	}
	return p
}

func ports(from, to uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
}

func udp(from, to uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(ports(from, to), uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

func tcp(from, to uint16, data []byte) []byte {
	b := append(ports(from, to), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0)
	return append(b, data...)
}

// ip4 is an IPv4 packet with so many bytes of options.
func ip4(from, to string, protocol byte, fragment uint16, options int, data []byte) []byte {
	b := []byte{0x45 + byte(options/4), 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+options+len(data)))
	binary.BigEndian.PutUint16(b[6:], fragment)
	b = append(b, netip.MustParseAddr(from).AsSlice()...)
	b = append(b, netip.MustParseAddr(to).AsSlice()...)
	for range options {
		b = append(b, 1) // no operation
	}
	return append(b, data...)
}

func ip6(from, to string, next byte, data []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(data)))
	b = append(b, netip.MustParseAddr(from).AsSlice()...)
	b = append(b, netip.MustParseAddr(to).AsSlice()...)
	return append(b, data...)
}

// fragment6 is a fragment header in front of data.
func fragment6(next byte, offset uint16, more bool, data []byte) []byte {
	at := offset << 3
	if more {
		at |= 1
	}
	return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16([]byte{next, 0}, at), 77), data...)
}

// behind puts types and what goes with them in front of a packet: tag(5),
// then the type of the packet.
func tag(tpid, tci uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), tci)
}

func pppoe(protocol uint16, length int) []byte {
	b := []byte{0x88, 0x64, 0x11, 0, 0, 9, 0, 0}
	binary.BigEndian.PutUint16(b[6:], uint16(length+2))
	return binary.BigEndian.AppendUint16(b, protocol)
}

func etherType(t uint16) []byte { return binary.BigEndian.AppendUint16(nil, t) }

// ethernet is a frame for nobody: addresses, then the parts.
func ethernet(parts ...[]byte) []byte {
	b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}
