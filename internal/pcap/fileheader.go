package pcap

import "encoding/binary"

// The magic numbers of a pcap file, as the machine that wrote it saw them.
const (
	magicMicro    uint32 = 0xa1b2c3d4
	magicNano     uint32 = 0xa1b23c4d
	magicModified uint32 = 0xa1b2cd34 // Kuznetzov's: 8 more bytes in each record header
)

// AppendFileHeader appends the header of a little-endian pcap 2.4 file to dst
// and returns the extended slice. Times of the records that follow are in
// nanoseconds when nano is set, else in microseconds. The FCS bits of the last
// word are 0: readers that do not know them take the whole word for a link
// type.
//
//	 0       4       8      12      16        20          24
//	+-------+---+---+-------+-------+---------+-----------+
//	| magic | 2 | 4 |   0   |   0   | snaplen | link type |
//	+-------+---+---+-------+-------+---------+-----------+
func AppendFileHeader(dst []byte, link LinkType, snaplen uint32, nano bool) []byte {
	magic := magicMicro
	if nano {
		magic = magicNano
	}
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, magic)
	dst = le.AppendUint16(dst, 2)
	dst = le.AppendUint16(dst, 4)
	dst = le.AppendUint64(dst, 0) // time zone and accuracy, which nobody uses
	dst = le.AppendUint32(dst, snaplen)
	return le.AppendUint32(dst, uint32(link))
}
