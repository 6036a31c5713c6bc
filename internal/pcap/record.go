package pcap

import (
	"encoding/binary"
	"fmt"
)

// Record reads the header of the record at the start of b, which must hold at
// least RecordHeaderLen bytes. Lengths are as found, unchecked.
func Record(b []byte) (sec, nsec, captured, original uint32) {
	le := binary.LittleEndian
	return le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
}

// CountRecords walks records and returns how many there are. It fails at the
// first one that is torn or out of bounds, and names its offset.
func CountRecords(records []byte) (int, error) {
	n, at := 0, 0
	for at < len(records) {
		if len(records)-at < RecordHeaderLen {
			return n, fmt.Errorf("record %d at offset %d: header is cut off", n, at)
		}
		_, nsec, captured, original := Record(records[at:])
		if captured == 0 || captured > MaxCaptured || captured > original || nsec >= 1e9 {
			return n, fmt.Errorf("record %d at offset %d: captured %d, original %d, nanoseconds %d out of bounds", n, at, captured, original, nsec)
		}
		at += RecordHeaderLen + int(captured)
		if at > len(records) {
			return n, fmt.Errorf("record %d: %d bytes are cut off", n, at-len(records))
		}
		n++
	}
	return n, nil
}
