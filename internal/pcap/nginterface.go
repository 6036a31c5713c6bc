package pcap

import (
	"math/bits"
	"strings"
)

// Options of an interface description block.
const (
	optionEnd         = 0
	optionName        = 2
	optionDescription = 3
	optionResolution  = 9
	optionOffset      = 14
)

// maxText is as much as is kept of a name or description, in bytes.
const maxText = 255

// clock tells how an interface counts time.
type clock struct {
	units  uint64 // in a second
	offset int64  // to be added, in seconds
}

// time converts a timestamp of an interface.
func (c clock) time(stamp uint64) (sec int64, nsec uint64) {
	whole, rest := stamp/c.units, stamp%c.units
	hi, lo := bits.Mul64(rest, 1e9)
	nsec, _ = bits.Div64(hi, lo, c.units)
	sec = int64(min(whole, 1<<62))
	if c.offset > 1<<62 { // a sum that overflows is too large as well
		return 1 << 62, nsec
	}
	return sec + c.offset, nsec
}

// declare reads an interface description block.
//
//	 8           10         12        16
//	+-----------+----------+---------+----------
//	| link type | reserved | snaplen | options…
//	+-----------+----------+---------+----------
func (n *ng) declare(b block) error {
	const fixed = 16
	if b.length < blockOverhead+8 || b.length > maxWindow {
		return wrong(b.at, "interface description of %d bytes; %d are the least, %d the most", b.length, blockOverhead+8, maxWindow)
	}
	if len(n.r.interfaces) == maxInterfaces {
		return wrong(b.at, "more than %d interfaces", maxInterfaces)
	}
	all, err := n.whole(b)
	if err != nil {
		return err
	}
	d := description{
		Interface: Interface{LinkType: LinkType(n.order.uint16(all[8:])), Snaplen: n.order.uint32(all[12:])},
		clock:     clock{units: 1e6},
	}
	if err := d.readOptions(n.order, b.at, all[fixed:b.length-4]); err != nil {
		return err
	}
	n.r.interfaces = append(n.r.interfaces, d.Interface)
	n.clocks = append(n.clocks, d.clock)
	return nil
}

// description is what an interface description block tells.
type description struct {
	Interface
	clock
	hasResolution, hasOffset bool // the first of each counts
}

// readOptions reads a list of options of the block at offset at.
//
//	 0      2        4
//	+------+--------+--------------------
//	| code | length | value, padded to 4
//	+------+--------+--------------------
func (d *description) readOptions(order byteOrder, at int64, list []byte) error {
	for len(list) > 0 {
		code, length := order.uint16(list), int(order.uint16(list[2:]))
		padded := (length + 3) &^ 3
		if list = list[4:]; padded > len(list) {
			return wrong(at, "option %d of %d bytes does not fit into its block", code, length)
		}
		if code == optionEnd {
			return nil
		}
		if err := d.set(order, at, code, list[:length]); err != nil {
			return err
		}
		list = list[padded:]
	}
	return nil
}

func (d *description) set(order byteOrder, at int64, code uint16, value []byte) error {
	switch {
	case code == optionName && d.Name == "":
		d.Name = text(value)
	case code == optionDescription && d.Description == "":
		d.Description = text(value)
	case code == optionResolution && len(value) == 1 && !d.hasResolution:
		d.hasResolution = true
		return d.setResolution(at, value[0])
	case code == optionOffset && len(value) == 8 && !d.hasOffset:
		d.hasOffset = true
		d.offset = int64(order.uint64(value))
	}
	return nil
}

// setResolution takes a negative power of ten or, with the highest bit, of two.
func (d *description) setResolution(at int64, value byte) error {
	exponent := value & 0x7f
	base, most := uint64(10), byte(19)
	if value&0x80 != 0 {
		base, most = 2, 63
	}
	if exponent > most {
		return wrong(at, "time resolution %d^-%d is finer than 64 bits can count", base, exponent)
	}
	d.units = 1
	for range exponent {
		d.units *= base
	}
	return nil
}

func text(value []byte) string {
	s := string(value[:min(len(value), maxText)])
	s, _, _ = strings.Cut(s, "\x00") // some writers end it as C does
	return s
}
