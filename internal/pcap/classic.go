package pcap

import (
	"io"
	"math/bits"
)

// modifiedRecordHeaderLen is the record header of a file with magicModified:
// an interface index, a protocol and a packet type follow what others have.
const modifiedRecordHeaderLen = 24

// classic is a pcap file, draft-ietf-opsawg-pcap and what came before it.
type classic struct {
	r         *Reader
	order     byteOrder
	headerLen int    // of a record
	unit      uint32 // nanoseconds in a unit of the times' fractions
	swapped   lengthOrder
}

// lengthOrder says which of a record's lengths comes first. It was changed in
// version 2.3, and some who wrote 2.3 had not heard.
type lengthOrder int

const (
	capturedFirst lengthOrder = iota
	originalFirst
	smallerIsCaptured
)

func (r *Reader) openClassic(magic uint32) error {
	c := &classic{r: r, headerLen: RecordHeaderLen, unit: 1000}
	if !isMagic(magic) {
		magic = bits.ReverseBytes32(magic)
		c.order.big = true
	}
	switch magic {
	case magicMicro:
	case magicNano:
		c.unit = 1
	case magicModified:
		c.headerLen = modifiedRecordHeaderLen
	default:
		return notACapture(bits.ReverseBytes32(magic))
	}
	b, err := r.in.peek(FileHeaderLen)
	if err != nil {
		return r.cut(0, "file header", len(b), FileHeaderLen, err)
	}
	if err := c.parseHeader(b); err != nil {
		return err
	}
	r.in.advance(FileHeaderLen)
	r.next = c.next
	if !c.order.big && c.headerLen == RecordHeaderLen && c.swapped == capturedFirst {
		r.direct = c
	}
	return nil
}

func isMagic(m uint32) bool {
	return m == magicMicro || m == magicNano || m == magicModified
}

// notACapture is the error of an input that begins with these four bytes.
func notACapture(begin uint32) error {
	if begin&0xffffff == 0x088b1f { // RFC 1952: magic and "deflate"
		return wrong(0, "compressed with gzip; unpack it first")
	}
	return wrong(0, "not a pcap or pcapng file: begins with % x", []byte{byte(begin), byte(begin >> 8), byte(begin >> 16), byte(begin >> 24)})
}

func (c *classic) parseHeader(b []byte) error {
	major, minor := c.order.uint16(b[4:]), c.order.uint16(b[6:])
	if major < 2 {
		return wrong(0, "pcap version %d.%d; 2.0 is the oldest that is understood", major, minor)
	}
	if major == 543 || major == 2 && minor < 3 { // 543.0: tcpdump of DG/UX
		c.swapped = originalFirst
	} else if major == 2 && minor == 3 {
		c.swapped = smallerIsCaptured
	}
	// Above the link type: ten reserved bits, then what is known of the FCS.
	link := c.order.uint32(b[20:])
	if link&0x03ff0000 != 0 {
		return wrong(0, "link type %#08x has reserved bits set", link)
	}
	c.r.interfaces = []Interface{{LinkType: LinkType(link), Snaplen: c.order.uint32(b[16:])}}
	return nil
}

func (c *classic) next(p *Packet) error {
	in := c.r.in
	at := in.offset
	b, err := in.peek(c.headerLen)
	if err != nil {
		if len(b) == 0 && err == io.EOF {
			return io.EOF
		}
		return c.r.cut(at, "record header", len(b), c.headerLen, err)
	}
	sec, fraction := c.order.uint32(b), c.order.uint32(b[4:])
	captured, original := c.lengths(b)
	if captured > MaxCaptured {
		return wrong(at, "record of %d captured bytes; %d are the most", captured, MaxCaptured)
	}
	length := c.headerLen + int(captured)
	if b, err = in.peek(length); err != nil {
		return c.r.cut(at, "record", len(b), length, err)
	}
	in.advance(length)
	p.Original, p.Data = original, b[c.headerLen:]
	c.r.finish(p, c.order)
	// A fraction far beyond a second wraps around here as it does in Wireshark
	// and tcpdump --nano: it is nonsense, but the same nonsense.
	return p.setTime(at, int64(sec), uint64(fraction*c.unit))
}

func (c *classic) lengths(b []byte) (captured, original uint32) {
	first, second := c.order.uint32(b[8:]), c.order.uint32(b[12:])
	if c.swapped == originalFirst || c.swapped == smallerIsCaptured && first > second {
		return second, first
	}
	return first, second
}
