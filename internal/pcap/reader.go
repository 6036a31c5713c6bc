package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Error says where an input cannot be read any further, and why. All packets
// before have been delivered. An input that ends in the middle of something
// wraps io.ErrUnexpectedEOF.
type Error struct {
	Offset int64  // in bytes, of the header, record or block that is at fault
	Reason string // for people
	cause  error
}

func (e *Error) Error() string { return fmt.Sprintf("offset %d: %s", e.Offset, e.Reason) }
func (e *Error) Unwrap() error { return e.cause }

// Packet is one packet of a capture file. It is handed out by pointer: to copy
// its words costs more than to read them.
type Packet struct {
	Interface int    // index into Interfaces
	Sec       uint32 // since 1970
	Nsec      uint32 // below 1e9
	Original  uint32 // length on the wire; never less than len(Data)
	Data      []byte // at most MaxCaptured bytes, maybe none
}

// Interface is where packets were captured, as far as the file tells. A pcap
// file has one, without a name.
type Interface struct {
	LinkType    LinkType
	Snaplen     uint32 // as declared: 0 is none, and packets may be longer nevertheless
	Name        string // at most 255 bytes, as found
	Description string // likewise
}

// Reader reads a capture file, pcap or pcapng of any byte order, resolution
// and age, from a stream of bytes. It delivers what Wireshark 4.0 and
// tcpdump 4.99 deliver. It needs little memory whatever the input says, and
// allocates nothing per packet.
type Reader struct {
	in         *window
	next       func(*Packet) error
	direct     *classic // what Records can read; nil: nothing
	packet     Packet   // the latest
	interfaces []Interface
	err        error // what ended the reading
}

// NewReader reads the file's header, which may have to wait for input. The
// Reader reads from in only when what it holds of it contains no whole packet;
// so whoever hands it a Read of their own learns of every wait beforehand.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: newWindow(in)}
	magic, err := r.in.peek(4)
	if err != nil {
		return nil, r.cut(0, "no capture file", len(magic), 4, err)
	}
	if binary.LittleEndian.Uint32(magic) == blockSection {
		err = r.openNG()
	} else {
		err = r.openClassic(binary.LittleEndian.Uint32(magic))
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Next returns the next packet, which is valid until the next call. It returns
// io.EOF at the clean end of the input, an *Error where the input is damaged,
// or what reading it failed with; after that the same again.
func (r *Reader) Next() (*Packet, error) {
	if r.err == nil {
		r.err = r.next(&r.packet)
	}
	if r.err != nil {
		return nil, r.err
	}
	return &r.packet, nil
}

// Interfaces lists what has been declared so far: with pcap the one there is,
// with pcapng a number that grows. Interfaces of a further section are numbered
// on.
func (r *Reader) Interfaces() []Interface { return slices.Clip(r.interfaces) }

// wrong is the error of an input that breaks the format.
func wrong(at int64, format string, args ...any) error {
	return &Error{Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// cut is the error of an input of which less than expected could be read,
// because it ended or because reading failed.
func (r *Reader) cut(at int64, what string, got, want int, err error) error {
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("offset %d: %w", r.in.offset+int64(len(r.in.held())), err)
	}
	return &Error{
		Offset: at,
		Reason: fmt.Sprintf("%s: cut off after %d of %d bytes", what, got, want),
		cause:  io.ErrUnexpectedEOF,
	}
}

// setTime checks that a time fits the record form.
func (p *Packet) setTime(at, sec int64, nsec uint64) error {
	if nsec >= 1e9 { // some writers let the fraction run over
		sec, nsec = sec+int64(nsec/1e9), nsec%1e9
	}
	if sec < 0 || sec > 1<<32-1 {
		return wrong(at, "time %d seconds since 1970 is not between 1970 and 2106", sec)
	}
	p.Sec, p.Nsec = uint32(sec), uint32(nsec)
	return nil
}

// finish makes a packet canonical: its data as a little-endian machine would
// have written it, its original length no less than the captured one.
func (r *Reader) finish(p *Packet, order byteOrder) {
	captured := uint32(len(p.Data))
	if order.big {
		swapPseudoHeader(r.interfaces[p.Interface].LinkType, p.Data[:min(captured, p.Original)])
	}
	p.Original = max(p.Original, captured)
}
