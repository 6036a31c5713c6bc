package pcap

import (
	"bytes"
	"encoding/binary"
)

// forge writes capture files as they should be, and as they should not.
type forge struct{ binary.AppendByteOrder }

var (
	little = forge{binary.LittleEndian}
	big    = forge{binary.BigEndian}
)

// words appends 32-bit numbers.
func (f forge) words(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = f.AppendUint32(b, v)
	}
	return b
}

// file is the header of a pcap file.
func (f forge) file(magic uint32, major, minor uint16, snaplen, link uint32) []byte {
	b := f.words(magic)
	b = f.AppendUint16(b, major)
	b = f.AppendUint16(b, minor)
	return append(b, f.words(0, 0, snaplen, link)...)
}

// usual is the header of an ordinary pcap file.
func (f forge) usual(link uint32) []byte { return f.file(magicMicro, 2, 4, 262144, link) }

func (f forge) record(sec, fraction, first, second uint32, data []byte) []byte {
	return append(f.words(sec, fraction, first, second), data...)
}

// block is one of pcapng; body is padded.
func (f forge) block(kind uint32, body []byte) []byte {
	length := uint32(len(pad(body))) + 12
	return f.rawBlock(kind, length, body, length)
}

func (f forge) rawBlock(kind, length uint32, body []byte, tail uint32) []byte {
	return bytes.Join([][]byte{f.words(kind, length), pad(body), f.words(tail)}, nil)
}

func pad(b []byte) []byte { return append(bytes.Clone(b), make([]byte, -len(b)&3)...) }

func (f forge) section(minor uint16, options ...byte) []byte {
	return f.block(blockSection, f.sectionBody(byteOrderMagic, 1, minor, options...))
}

func (f forge) sectionBody(magic uint32, major, minor uint16, options ...byte) []byte {
	b := f.words(magic)
	b = f.AppendUint16(b, major)
	b = f.AppendUint16(b, minor)
	b = f.AppendUint64(b, 1<<64-1)
	return append(b, options...)
}

func (f forge) iface(link uint16, snaplen uint32, options ...byte) []byte {
	b := f.AppendUint16(nil, link)
	b = f.AppendUint16(b, 0)
	b = append(b, f.words(snaplen)...)
	return f.block(blockInterface, append(b, options...))
}

func (f forge) option(code uint16, value ...byte) []byte {
	b := f.AppendUint16(nil, code)
	b = f.AppendUint16(b, uint16(len(value)))
	return append(b, pad(value)...)
}

func (f forge) enhanced(id uint32, stamp uint64, captured, original uint32, data []byte, options ...byte) []byte {
	b := f.words(id, uint32(stamp>>32), uint32(stamp), captured, original)
	return f.block(blockEnhanced, append(append(b, pad(data)...), options...))
}

// packet is an enhanced packet block without flaws.
func (f forge) packet(id uint32, stamp uint64, data []byte) []byte {
	return f.enhanced(id, stamp, uint32(len(data)), uint32(len(data)), data)
}

func (f forge) obsolete(id, drops uint16, stamp uint64, original uint32, data []byte) []byte {
	b := f.AppendUint16(nil, id)
	b = f.AppendUint16(b, drops)
	b = append(b, f.words(uint32(stamp>>32), uint32(stamp), uint32(len(data)), original)...)
	return f.block(blockPacket, append(b, data...))
}

func (f forge) simple(original uint32, data []byte) []byte {
	return f.block(blockSimple, append(f.words(original), data...))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
