package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"poip/internal/pcap"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BatchHeader describes the records that follow it in a batch frame.
//
//	 0       8       12      16         24       32
//	+-------+-------+-------+----------+--------+----------
//	| first | count | CRC   | earliest | latest | records…
//	+-------+-------+-------+----------+--------+----------
//
// Times are nanoseconds since 1970, the smallest and largest of the records.
// The CRC-32C covers the whole payload but itself.
type BatchHeader struct {
	First    PacketNumber
	Count    uint32
	CRC      uint32
	Earliest int64
	Latest   int64
}

// Next is the number after the last packet of the batch.
func (h BatchHeader) Next() PacketNumber { return h.First + PacketNumber(h.Count) }

// SealBatch turns frame into a complete batch frame. The caller has left
// BatchPrefixLen bytes free before the records, which must not be empty.
// h.CRC is computed here.
func SealBatch(frame []byte, h BatchHeader) {
	payload := frame[FrameHeaderLen:]
	appendHeader(frame[:0], TypeBatch, len(payload))
	le := binary.LittleEndian
	le.PutUint64(payload[0:], uint64(h.First))
	le.PutUint32(payload[8:], h.Count)
	le.PutUint64(payload[16:], uint64(h.Earliest))
	le.PutUint64(payload[24:], uint64(h.Latest))
	le.PutUint32(payload[12:], batchCRC(payload[:BatchHeaderLen], payload[BatchHeaderLen:]))
}

// ParseBatchHeader reads the BatchHeaderLen bytes at the start of a payload.
func ParseBatchHeader(b []byte) BatchHeader {
	le := binary.LittleEndian
	return BatchHeader{
		First:    PacketNumber(le.Uint64(b[0:])),
		Count:    le.Uint32(b[8:]),
		CRC:      le.Uint32(b[12:]),
		Earliest: int64(le.Uint64(b[16:])),
		Latest:   int64(le.Uint64(b[24:])),
	}
}

func batchCRC(header, records []byte) uint32 {
	crc := crc32.Update(0, castagnoli, header[:12])
	crc = crc32.Update(crc, castagnoli, header[16:BatchHeaderLen])
	return crc32.Update(crc, castagnoli, records)
}

// VerifyBatch checks a batch that has come to rest: its CRC, that its numbers
// do not overflow, then that the records are whole, within bounds and as many
// as the header says.
func VerifyBatch(header, records []byte) error {
	h := ParseBatchHeader(header)
	if got := batchCRC(header, records); got != h.CRC {
		return fmt.Errorf("%w: CRC %08x, header says %08x", ErrMalformed, got, h.CRC)
	}
	if h.Next() < h.First {
		return fmt.Errorf("%w: batch of %d packets at %d overflows", ErrMalformed, h.Count, h.First)
	}
	n, err := pcap.CountRecords(records)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if n != int(h.Count) {
		return fmt.Errorf("%w: %d records, header says %d", ErrMalformed, n, h.Count)
	}
	return nil
}
