package pcap

import "io"

// The blocks of pcapng that are read; all others are skipped.
const (
	blockSection   uint32 = 0x0a0d0d0a // reads the same in either byte order
	blockInterface uint32 = 1
	blockPacket    uint32 = 2 // obsolete
	blockSimple    uint32 = 3
	blockEnhanced  uint32 = 6
)

// Bounds of pcapng.
const (
	blockOverhead = 12 // type and length before the body, the length behind it

	// maxBlock is Wireshark's: a packet of 128 MiB and as much as 128 KiB of
	// options. Only blocks that are skipped come near it.
	maxBlock = 32 + 128<<20 + 128<<10

	// maxInterfaces bounds what a file can make us remember.
	maxInterfaces = 4096
)

// byteOrderMagic begins the body of a section header block.
const byteOrderMagic uint32 = 0x1a2b3c4d

// ng is a pcapng file, draft-ietf-opsawg-pcapng: a run of sections, each with
// a byte order and interfaces of its own.
type ng struct {
	r      *Reader
	order  byteOrder // of the current section
	first  int       // number of the current section's first interface
	clocks []clock   // of all interfaces
	spare  []byte    // holds a packet whose block is larger than the window
}

// block is the beginning of a block.
//
//	 0      4        8                   length-4
//	+------+--------+-------------------+--------+
//	| type | length | body, padded to 4 | length |
//	+------+--------+-------------------+--------+
type block struct {
	kind   uint32
	at     int64 // its offset in the input
	length int   // of the whole, a multiple of 4
}

func (r *Reader) openNG() error {
	n := &ng{r: r}
	b, err := n.header()
	if err != nil {
		return err
	}
	r.next = n.next
	return n.section(b)
}

func (n *ng) next(p *Packet) error {
	for {
		b, err := n.header()
		if err != nil {
			return err
		}
		switch b.kind {
		case blockEnhanced, blockPacket, blockSimple:
			return n.packet(b, p)
		case blockSection:
			err = n.section(b)
		case blockInterface:
			err = n.declare(b)
		default:
			err = n.skip(b)
		}
		if err != nil {
			return err
		}
	}
}

// header peeks at type and length of the next block.
func (n *ng) header() (block, error) {
	in := n.r.in
	at := in.offset
	b, err := in.peek(8)
	if err != nil {
		if len(b) == 0 && err == io.EOF {
			return block{}, io.EOF
		}
		return block{}, n.r.cut(at, "block header", len(b), 8, err)
	}
	kind, order := n.order.uint32(b), n.order
	if kind == blockSection {
		if order, err = n.sectionOrder(); err != nil {
			return block{}, err
		}
		b, _ = in.peek(8)
	}
	// Some writers leave the padding out of the length.
	length := (uint64(order.uint32(b[4:])) + 3) &^ 3
	if length < blockOverhead || length > maxBlock {
		return block{}, wrong(at, "block of %d bytes; %d are the least, %d the most", length, blockOverhead, maxBlock)
	}
	return block{kind, at, int(length)}, nil
}

// sectionOrder finds the byte order of the section that begins here.
func (n *ng) sectionOrder() (byteOrder, error) {
	b, err := n.r.in.peek(12)
	if err != nil {
		return byteOrder{}, n.r.cut(n.r.in.offset, "section header", len(b), 12, err)
	}
	for _, order := range []byteOrder{{big: false}, {big: true}} {
		if order.uint32(b[8:]) == byteOrderMagic {
			return order, nil
		}
	}
	return byteOrder{}, wrong(n.r.in.offset, "section header with byte order magic % x", b[8:12])
}

// section begins a new one. Its length is of no use: what it may leave out is
// skipped anyway.
func (n *ng) section(b block) error {
	const least = blockOverhead + 16
	if b.length < least {
		return wrong(b.at, "section header of %d bytes; %d are the least", b.length, least)
	}
	var err error
	if n.order, err = n.sectionOrder(); err != nil {
		return err
	}
	head, err := n.r.in.peek(16)
	if err != nil {
		return n.r.cut(b.at, "section header", len(head), b.length, err)
	}
	major, minor := n.order.uint16(head[12:]), n.order.uint16(head[14:])
	if major != 1 || minor != 0 && minor != 2 {
		return wrong(b.at, "section of pcapng version %d.%d; 1.0 and 1.2 are understood", major, minor)
	}
	n.first = len(n.r.interfaces)
	return n.skip(b)
}

// skip goes past a block of which no more is of use.
func (n *ng) skip(b block) error {
	in := n.r.in
	if err := in.skip(int64(b.length - 4)); err != nil {
		return n.r.cut(b.at, "block", int(in.offset-b.at), b.length, err)
	}
	tail, err := in.peek(4)
	if err != nil {
		return n.r.cut(b.at, "block", b.length-4+len(tail), b.length, err)
	}
	if err := n.checkTail(b, tail); err != nil {
		return err
	}
	in.advance(4)
	return nil
}

// whole returns a block that fits into the window, and uses it up.
func (n *ng) whole(b block) ([]byte, error) {
	all, err := n.r.in.peek(b.length)
	if err != nil {
		return nil, n.r.cut(b.at, "block", len(all), b.length, err)
	}
	if err := n.checkTail(b, all[b.length-4:]); err != nil {
		return nil, err
	}
	n.r.in.advance(b.length)
	return all, nil
}

// checkTail compares the length behind a block with the one before.
func (n *ng) checkTail(b block, tail []byte) error {
	if got := n.order.uint32(tail); (uint64(got)+3)&^3 != uint64(b.length) {
		return wrong(b.at, "block of %d bytes according to its beginning, %d to its end", b.length, got)
	}
	return nil
}
