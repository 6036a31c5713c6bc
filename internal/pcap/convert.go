package pcap

import "encoding/binary"

// Convert appends records to dst, cut to snaplen captured bytes each and, when
// micro is set, with times in microseconds, and returns the extended slice. It
// allocates only if dst has too little room; len(records) is always enough.
// The caller keeps 1 <= snaplen, and records as CountRecords accepts them.
func Convert(dst, records []byte, micro bool, snaplen uint32) []byte {
	// Mostly nothing is cut: one copy and one walk are twice as fast as
	// looking first.
	from := len(dst)
	dst = append(dst, records...)
	done := convertTimes(dst[from:], micro, snaplen)
	if done == len(records) {
		return dst
	}
	from += done
	dst = appendCut(dst[:from], records[done:], snaplen)
	convertTimes(dst[from:], micro, snaplen)
	return dst
}

// convertTimes works in place, up to the first record longer than snaplen, and
// returns the length of what it has walked.
func convertTimes(records []byte, micro bool, snaplen uint32) int {
	le := binary.LittleEndian
	at := 0
	for at < len(records) {
		header := records[at : at+RecordHeaderLen : at+RecordHeaderLen]
		captured := le.Uint32(header[8:])
		if captured > snaplen {
			break
		}
		if micro {
			le.PutUint32(header[4:], le.Uint32(header[4:])/1000)
		}
		at += RecordHeaderLen + int(captured)
	}
	return at
}

// appendCut copies runs of records that need no cut in one piece.
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
