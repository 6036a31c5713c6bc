package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Header precedes every frame.
//
//	 0      1      2          4                 8
//	+------+------+----------+-----------------+
//	| type | 0    | 0        | payload length  |
//	+------+------+----------+-----------------+
type Header struct {
	Type   Type
	Length int // of the payload, in bytes
}

// ReadHeader reads the header of the next frame and checks its length against
// the bounds of its type. It returns io.EOF only where a frame would begin.
func ReadHeader(r io.Reader, buf *[FrameHeaderLen]byte) (Header, error) {
	if _, err := io.ReadFull(r, buf[:]); err != nil {
		return Header{}, err
	}
	t, length := Type(buf[0]), binary.LittleEndian.Uint32(buf[4:])
	if buf[1] != 0 || buf[2] != 0 || buf[3] != 0 {
		return Header{}, fmt.Errorf("%w: reserved bits set in header of type %d", ErrMalformed, t)
	}
	switch {
	case t < TypeHello || t > TypeTrust:
		return Header{}, fmt.Errorf("%w: unknown type %d", ErrMalformed, t)
	case t == TypeBatch && (length <= BatchHeaderLen || length > MaxBatchLen):
		return Header{}, fmt.Errorf("%w: batch of %d bytes, want %d to %d", ErrMalformed, length, BatchHeaderLen+1, MaxBatchLen)
	case t != TypeBatch && length > MaxControlLen:
		return Header{}, fmt.Errorf("%w: type %d of %d bytes, at most %d", ErrMalformed, t, length, MaxControlLen)
	}
	return Header{Type: t, Length: int(length)}, nil
}

func appendHeader(dst []byte, t Type, length int) []byte {
	dst = append(dst, byte(t), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, uint32(length))
}
