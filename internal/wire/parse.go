package wire

import (
	"encoding/binary"
	"fmt"

	"poip/internal/pcap"
)

// Parse* functions read the payload of one frame. They refuse a payload that
// is too short, too long or out of bounds, so that what they accept is exactly
// what the matching Append function writes.

// ParseHello reads a hello. Its texts are not checked but for their length.
// Later versions append fields to this layout; they are passed over.
func ParseHello(payload []byte) (Hello, error) {
	p := parser{b: payload}
	h := Hello{
		Version:  p.u16(),
		LinkType: pcap.LinkType(p.u16()),
		Snaplen:  p.u32(),
		Epoch:    Epoch(p.take(16)),
		Oldest:   PacketNumber(p.u64()),
		SentAt:   int64(p.u64()),
	}
	h.Stream = p.text(MaxStreamLen)
	h.Interface = p.text(MaxDescriptionLen)
	h.Agent = p.text(MaxAgentLen)
	if h.Version > Version {
		p.b = nil
	}
	if h.Version == 0 || h.Snaplen == 0 || h.Snaplen > pcap.MaxCaptured {
		p.bad = true
	}
	return h, p.done("hello")
}

// ParseHelloAck reads a hello-ack.
func ParseHelloAck(payload []byte) (HelloAck, error) {
	p := parser{b: payload}
	a := HelloAck{Version: p.u16()}
	p.zero(2)
	a.Position = PacketNumber(p.u64())
	a.Window, a.MaxBatch, a.Idle = p.u32(), p.u32(), p.u32()
	return a, p.done("hello-ack")
}

// ParseRefusal reads a refusal. The reason is not checked but for its length.
func ParseRefusal(payload []byte) (Refusal, error) {
	p := parser{b: payload}
	r := Refusal{Code: Code(p.u16()), Reason: p.text(MaxReasonLen)}
	return r, p.done("refusal")
}

// ParseGap reads a gap. Its end does not overflow.
func ParseGap(payload []byte) (Gap, error) {
	p := parser{b: payload}
	g := Gap{First: PacketNumber(p.u64()), Count: p.u64(), Cause: Cause(p.u16())}
	p.zero(6)
	g.Earliest, g.Latest = int64(p.u64()), int64(p.u64())
	if g.Next() < g.First {
		return g, fmt.Errorf("%w: gap of %d packets at %d overflows", ErrMalformed, g.Count, g.First)
	}
	return g, p.done("gap")
}

// ParseAck reads an ack.
func ParseAck(payload []byte) (Ack, error) {
	p := parser{b: payload}
	a := Ack{Next: PacketNumber(p.u64()), Ended: p.bool()}
	return a, p.done("ack")
}

// ParseStats reads statistics.
func ParseStats(payload []byte) (Stats, error) {
	p := parser{b: payload}
	s := Stats{
		SentAt:        int64(p.u64()),
		Captured:      p.u64(),
		Lost:          p.u64(),
		Empty:         p.u64(),
		QueuedPackets: p.u64(),
		QueuedBytes:   p.u64(),
	}
	return s, p.done("statistics")
}

// ParseEnd reads an end.
func ParseEnd(payload []byte) (End, error) {
	p := parser{b: payload}
	e := End{Next: PacketNumber(p.u64()), Final: p.bool()}
	return e, p.done("end")
}

// A parser takes a payload apart. Running out of bytes sets bad and yields
// zeros, so that callers check once, at the end.
type parser struct {
	b   []byte
	bad bool
}

var zeros [16]byte

func (p *parser) take(n int) []byte {
	if len(p.b) < n {
		p.bad, p.b = true, nil
		if n > len(zeros) {
			return nil
		}
		return zeros[:n]
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) u16() uint16 { return binary.LittleEndian.Uint16(p.take(2)) }
func (p *parser) u32() uint32 { return binary.LittleEndian.Uint32(p.take(4)) }
func (p *parser) u64() uint64 { return binary.LittleEndian.Uint64(p.take(8)) }

func (p *parser) zero(n int) {
	for _, c := range p.take(n) {
		if c != 0 {
			p.bad = true
		}
	}
}

func (p *parser) bool() bool {
	b := p.take(1)[0]
	p.bad = p.bad || b > 1
	return b == 1
}

func (p *parser) text(most int) string {
	n := int(p.u16())
	if n > most {
		p.bad, p.b = true, nil
		return ""
	}
	return string(p.take(n))
}

func (p *parser) done(what string) error {
	if p.bad || len(p.b) != 0 {
		return fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	return nil
}
