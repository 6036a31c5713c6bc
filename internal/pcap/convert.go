package pcap

import "encoding/binary"

// Convert appends records to dst, cut to snaplen captured bytes each and, when
// micro is set, with times in microseconds, and returns the extended slice. It
// allocates only if dst has too little room; len(records) is always enough.
// The caller keeps 1 <= snaplen, and records as CountRecords accepts them.
func Convert(dst, records []byte, micro bool, snaplen uint32) []byte {
	from := len(dst)
	dst = appendCut(dst, records, snaplen)
	if micro {
		toMicro(dst[from:])
	}
	return dst
}

// appendCut copies what needs no cut in one piece: few records do, and many
// small copies cost more than one walk over the headers.
func appendCut(dst, records []byte, snaplen uint32) []byte {
	le := binary.LittleEndian
	begin, at := 0, 0 // of the records not copied yet; of this one
	for at < len(records) {
		captured := le.Uint32(records[at+8:])
		next := at + RecordHeaderLen + int(captured)
		if captured > snaplen {
			dst = append(dst, records[begin:at+RecordHeaderLen+int(snaplen)]...)
			le.PutUint32(dst[len(dst)-int(snaplen)-8:], snaplen)
			begin = next
		}
		at = next
	}
	return append(dst, records[begin:]...)
}

// toMicro divides the fractions of all records' times, in place.
func toMicro(records []byte) {
	le := binary.LittleEndian
	for at := 0; at < len(records); {
		header := records[at : at+RecordHeaderLen]
		le.PutUint32(header[4:], le.Uint32(header[4:])/1000)
		at += RecordHeaderLen + int(le.Uint32(header[8:]))
	}
}
