package pcap

// packet reads a block with a packet. What matters of its three kinds:
//
//	enhanced   8 interface   12 time, high  16 low  20 captured  24 original  28 data
//	packet     8 interface 10 drops  12 time, high  16 low  20 captured  24 original  28 data
//	simple     8 original   12 data
func (n *ng) packet(b block, p *Packet) error {
	head := 28
	if b.kind == blockSimple {
		head = 12
	}
	if b.length < head+4 {
		return wrong(b.at, "packet block of %d bytes; %d are the least", b.length, head+4)
	}
	fixed, err := n.r.in.peek(head)
	if err != nil {
		return n.r.cut(b.at, "block", len(fixed), b.length, err)
	}
	captured, err := n.packetHead(b, fixed, p)
	if err != nil {
		return err
	}
	if captured > MaxCaptured {
		return wrong(b.at, "packet of %d captured bytes; %d are the most", captured, MaxCaptured)
	}
	if head+int(captured+3)&^3+4 > b.length {
		return wrong(b.at, "%d captured bytes do not fit into a block of %d bytes", captured, b.length)
	}
	if p.Data, err = n.packetData(b, head, int(captured)); err != nil {
		return err
	}
	n.r.finish(p, n.order)
	return nil
}

// packetHead reads the fixed part of a packet block.
func (n *ng) packetHead(b block, head []byte, p *Packet) (captured uint32, err error) {
	var id uint32 // a simple packet is of the first interface
	switch b.kind {
	case blockEnhanced:
		id = n.order.uint32(head[8:])
	case blockPacket:
		id = uint32(n.order.uint16(head[8:]))
	}
	if declared := len(n.r.interfaces) - n.first; uint64(id) >= uint64(declared) {
		return 0, wrong(b.at, "packet of interface %d, but the section has declared %d so far", id, declared)
	}
	p.Interface = n.first + int(id)
	if b.kind == blockSimple {
		return n.simpleHead(head, p), nil
	}
	stamp := uint64(n.order.uint32(head[12:]))<<32 | uint64(n.order.uint32(head[16:]))
	p.Original = n.order.uint32(head[24:])
	sec, nsec := n.clocks[p.Interface].time(stamp)
	return n.order.uint32(head[20:]), p.setTime(b.at, sec, nsec)
}

// simpleHead reads what a simple packet block has of a head: no time, and a
// captured length that follows from the interface's snaplen.
func (n *ng) simpleHead(head []byte, p *Packet) (captured uint32) {
	p.Sec, p.Nsec, p.Original = 0, 0, n.order.uint32(head[8:])
	if snaplen := n.r.interfaces[p.Interface].Snaplen; snaplen != 0 {
		return min(p.Original, snaplen)
	}
	return p.Original
}

// packetData returns the data of a packet and uses up its block.
func (n *ng) packetData(b block, head, captured int) ([]byte, error) {
	if b.length <= maxWindow {
		all, err := n.whole(b)
		if err != nil {
			return nil, err
		}
		return all[head : head+captured : head+captured], nil
	}
	// The options do not fit into the window, but are of no use either.
	begin, err := n.r.in.peek(head + captured)
	if err != nil {
		return nil, n.r.cut(b.at, "block", len(begin), b.length, err)
	}
	n.spare = append(n.spare[:0], begin[head:]...)
	return n.spare, n.skip(b)
}
