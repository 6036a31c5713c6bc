package oracle

import "encoding/binary"

// interfaces is what a capture file declares before its packets.
type interfaces struct {
	links   []int // link types by interface, those of further sections numbered on
	earlier []int // for each section of a pcapng file, how many were declared before it
}

// interfacesOf walks through a capture file as far as it is one.
func interfacesOf(content []byte) (found interfaces) {
	if len(content) < 24 {
		return found
	}
	if binary.LittleEndian.Uint32(content) == 0x0a0d0d0a {
		found.walk(content)
		return found
	}
	link := binary.LittleEndian.Uint16(content[20:]) // what is above it tells of checksums
	if content[0] == 0xa1 {
		link = binary.BigEndian.Uint16(content[22:])
	}
	found.links = []int{int(link)}
	return found
}

// walk goes from block to block of a pcapng file.
func (found *interfaces) walk(content []byte) {
	const section, iface = 0x0a0d0d0a, 1
	var order binary.ByteOrder = binary.LittleEndian
	for len(content) >= 12 {
		switch order.Uint32(content) { // a section's is the same in either order
		case section:
			found.earlier = append(found.earlier, len(found.links))
			if order = binary.LittleEndian; content[8] == 0x1a { // of the magic 1a 2b 3c 4d
				order = binary.BigEndian
			}
		case iface:
			found.links = append(found.links, int(order.Uint16(content[8:])))
		}
		length := (uint64(order.Uint32(content[4:])) + 3) &^ 3
		content = content[min(max(length, 12), uint64(len(content))):]
	}
}
