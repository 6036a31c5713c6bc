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
	h := Header{Type: Type(buf[0]), Length: int(binary.LittleEndian.Uint32(buf[4:]))}
	if buf[1] != 0 || buf[2] != 0 || buf[3] != 0 {
		return h, fmt.Errorf("%w: reserved bits set in header of type %d", ErrMalformed, h.Type)
	}
	switch {
	case h.Type < TypeHello || h.Type > TypeEnd:
		return h, fmt.Errorf("%w: unknown type %d", ErrMalformed, h.Type)
	case h.Type == TypeBatch && (h.Length <= BatchHeaderLen || h.Length > MaxBatchLen):
		return h, fmt.Errorf("%w: batch of %d bytes, want %d to %d", ErrMalformed, h.Length, BatchHeaderLen+1, MaxBatchLen)
	case h.Type != TypeBatch && h.Length > MaxControlLen:
		return h, fmt.Errorf("%w: type %d of %d bytes, at most %d", ErrMalformed, h.Type, h.Length, MaxControlLen)
	}
	return h, nil
}

func appendHeader(dst []byte, t Type, length int) []byte {
	dst = append(dst, byte(t), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, uint32(length))
}
