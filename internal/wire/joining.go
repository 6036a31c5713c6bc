package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The frame types of joining, by which a sensor without a certificate gets one,
// beside TypeRefusal: PROTOCOL.md, "Joining". They have the header of all others.
const (
	TypeJoin    Type = 32 // sensor: a request, and the proof of a token
	TypeWelcome Type = 33 // relay: the certificate, and whom to trust
)

const (
	// MaxJoinLen bounds the payload of every frame of joining.
	MaxJoinLen = 8192

	// MaxJoinCerts bounds how many certificates a chain or a list of
	// authorities has.
	MaxJoinCerts = 8

	// JoinHeaderLen is what precedes the request in a join.
	JoinHeaderLen = 48
)

// Join asks for a certificate.
//
//	 0    16      48
//	+----+-------+-------
//	| id | proof | CSR …
//	+----+-------+-------
type Join struct {
	ID    [16]byte // of the token
	Proof [32]byte // of the token's secret, for this TLS session and this CSR
	CSR   []byte   // PKCS #10, DER; at least one byte
}

// Welcome answers a join.
//
//	 0       1             2
//	+-------+-------------+----------------------------------------------
//	| chain | authorities | each certificate: a 16-bit length, then DER …
//	+-------+-------------+----------------------------------------------
type Welcome struct {
	Chain       [][]byte // the sensor's certificate, then what leads to an authority
	Authorities [][]byte // whom the sensor shall trust
}

// ReadJoining reads one frame of joining. It returns io.EOF only where a frame
// would begin.
func ReadJoining(r io.Reader) (Type, []byte, error) {
	var head [FrameHeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	t, length := Type(head[0]), binary.LittleEndian.Uint32(head[4:])
	if head[1] != 0 || head[2] != 0 || head[3] != 0 {
		return t, nil, fmt.Errorf("%w: reserved bits set in header of type %d", ErrMalformed, t)
	}
	if t != TypeJoin && t != TypeWelcome && t != TypeRefusal {
		return t, nil, fmt.Errorf("%w: type %d, which is none of joining", ErrMalformed, t)
	}
	if length > MaxJoinLen {
		return t, nil, fmt.Errorf("%w: type %d of %d bytes, at most %d", ErrMalformed, t, length, MaxJoinLen)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return t, nil, fmt.Errorf("read frame of type %d: %w", t, noEOF(err))
	}
	return t, payload, nil
}

// noEOF is for where an end is not in order.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendJoin appends a join frame.
func AppendJoin(dst []byte, j Join) []byte {
	return appendFrame(dst, TypeJoin, func(b []byte) []byte {
		b = append(b, j.ID[:]...)
		b = append(b, j.Proof[:]...)
		return append(b, j.CSR...)
	})
}

// ParseJoin reads a join. Its CSR is not checked, and is a part of payload.
func ParseJoin(payload []byte) (Join, error) {
	if len(payload) <= JoinHeaderLen || len(payload) > MaxJoinLen {
		return Join{}, fmt.Errorf("%w: join of %d bytes, want %d to %d", ErrMalformed, len(payload), JoinHeaderLen+1, MaxJoinLen)
	}
	return Join{ID: [16]byte(payload), Proof: [32]byte(payload[16:]), CSR: payload[JoinHeaderLen:]}, nil
}

// AppendWelcome appends a welcome frame, or says why it would not be one.
func AppendWelcome(dst []byte, w Welcome) ([]byte, error) {
	frame := appendFrame(nil, TypeWelcome, func(b []byte) []byte {
		b = append(b, byte(len(w.Chain)), byte(len(w.Authorities)))
		for _, list := range [][][]byte{w.Chain, w.Authorities} {
			for _, der := range list {
				b = binary.LittleEndian.AppendUint16(b, uint16(len(der)))
				b = append(b, der...)
			}
		}
		return b
	})
	if _, err := ParseWelcome(frame[FrameHeaderLen:]); err != nil {
		return dst, fmt.Errorf("write welcome: %w", err)
	}
	return append(dst, frame...), nil
}

// ParseWelcome reads a welcome. The certificates are not checked, and are
// parts of payload.
func ParseWelcome(payload []byte) (Welcome, error) {
	if len(payload) > MaxJoinLen {
		return Welcome{}, fmt.Errorf("%w: welcome of %d bytes, at most %d", ErrMalformed, len(payload), MaxJoinLen)
	}
	p := parser{b: payload}
	counts := p.take(2)
	w := Welcome{Chain: p.certificates(int(counts[0])), Authorities: p.certificates(int(counts[1]))}
	return w, p.done("welcome")
}

func (p *parser) certificates(n int) (out [][]byte) {
	if n == 0 || n > MaxJoinCerts {
		p.bad, n = true, 0
	}
	for range n {
		der := p.take(int(p.u16()))
		p.bad = p.bad || len(der) == 0
		out = append(out, der)
	}
	return out
}
