package journal

import (
	"encoding/binary"

	"poip/internal/wire"
)

// Kind says what an entry is.
type Kind uint8

// The kinds of entries.
const (
	Batch Kind = 1 // packets
	Gap   Kind = 2 // packets that were lost
	End   Kind = 3 // the epoch is over

	seal Kind = 4 // the segment is complete; nobody outside sees these
)

// Entry is what a Reader returns: a batch, a gap or an end.
type Entry struct {
	Kind  Kind
	Epoch *Epoch

	// Of a batch: its header as it came. Of others First, Earliest and Latest.
	wire.BatchHeader

	Lost    uint64     // of a gap: how many packets; 0 is unknown
	Cause   wire.Cause // of a gap
	Ordinal uint64     // of the first packet of a batch; else of the next packet
	Arrival int64      // the owner's stamp
	Final   bool       // of an end: the stream has ended for good

	Offset, Length int // of a batch: where its records stand in Chunk.Records
}

// Next is the packet number after the entry.
func (e *Entry) Next() wire.PacketNumber {
	if e.Kind == Gap {
		return e.First + wire.PacketNumber(e.Lost)
	}
	return e.BatchHeader.Next()
}

// Gap is what a gap entry says.
func (e *Entry) Gap() wire.Gap {
	return wire.Gap{First: e.First, Count: e.Lost, Cause: e.Cause, Earliest: e.Earliest, Latest: e.Latest}
}

// PutHeader writes the header of a batch, as it came, to the first
// wire.BatchHeaderLen bytes of b.
func (e *Entry) PutHeader(b []byte) {
	le := binary.LittleEndian
	b = b[:wire.BatchHeaderLen]
	le.PutUint64(b[0:], uint64(e.First))
	le.PutUint32(b[8:], e.Count)
	le.PutUint32(b[12:], e.CRC)
	le.PutUint64(b[16:], uint64(e.BatchHeader.Earliest))
	le.PutUint64(b[24:], uint64(e.BatchHeader.Latest))
}

// entryOf is how a Reader shows an entry of an index.
func entryOf(epoch *Epoch, e *entry) Entry {
	out := Entry{Kind: e.kind, Epoch: epoch, Ordinal: e.ordinal, Arrival: e.arrival}
	out.First, out.Earliest, out.Latest = e.first, e.earliest, e.latest
	switch e.kind {
	case Batch:
		out.Count, out.CRC, out.Length = uint32(e.count), e.crc, int(e.length)
	case Gap:
		out.Lost, out.Cause = e.count, e.cause
	case End:
		out.Final = e.flags&flagFinal != 0
	}
	return out
}
