// Package pcap knows the one form in which packets travel through poip, and
// how to read and write the capture files that people already have.
//
// A packet is a record: the 16-byte record header of a little-endian,
// nanosecond pcap file, followed by the captured bytes. Records stand one
// after another without padding, so that any run of them, put behind a file
// header, is a pcap file. They are made once, at the sensor, and never
// rebuilt on the way.
//
// The format is described in draft-ietf-opsawg-pcap and pcap-savefile(5).
package pcap

import "encoding/binary"

// Sizes and bounds of the record form, in bytes.
const (
	FileHeaderLen   = 24
	RecordHeaderLen = 16

	// MaxCaptured is the largest captured length of one packet. Wireshark
	// (WTAP_MAX_PACKET_SIZE_STANDARD) and libpcap (MAXIMUM_SNAPLEN) refuse more.
	MaxCaptured = 262144

	// MaxRecordLen is a record header and the largest packet.
	MaxRecordLen = RecordHeaderLen + MaxCaptured
)

// AppendRecord appends one packet to dst in the record form and returns the
// extended slice. sec counts from 1970 and ends in 2106; nsec is below 1e9.
// The caller keeps 1 <= len(data) <= MaxCaptured and len(data) <= original.
func AppendRecord(dst []byte, sec, nsec, original uint32, data []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, sec)
	dst = binary.LittleEndian.AppendUint32(dst, nsec)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, original)
	return append(dst, data...)
}
