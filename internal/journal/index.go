package journal

import (
	"encoding/binary"
	"hash/crc32"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// Sizes of an index, in bytes.
const (
	headerLen = 2048
	entryLen  = 64
)

const (
	magic   = "poip-idx"
	version = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A header stands at the beginning of an index. Nothing in it changes as long
// as the file lives. FORMAT.md has its layout.
type header struct {
	flags      uint16
	epoch      Epoch
	seq        uint64
	first      wire.PacketNumber
	ordinal    uint64 // of the first packet
	created    int64  // this machine's clock
	arrival    int64  // of the last entry before this segment
	latest     int64  // time of the newest packet of the epoch before this segment; 0: none
	generation uint32
	ending     // of the epoch before this segment
	encryption // with flagEncrypted
}

// Flags of a header: these, and flagFinal, flagEnded and flagUnknown.
const (
	// flagJump: the numbers between the end of the segment before and the first
	// of this one were never given to the journal. They are not missing.
	flagJump = 1 << 4

	// flagNoPackets: this generation has no pcap file. What it held are gaps.
	flagNoPackets = 1 << 5

	// flagEncrypted: the packets are.
	flagEncrypted = 1 << 6

	headerFlags = flagJump | flagNoPackets | flagEncrypted
	knownFlags  = headerFlags | flagFinal | flagEnded | flagUnknown
)

// encryptedAt is where the header says how its packets are encrypted, in the
// bytes that their file begins with, behind the magic.
const encryptedAt = headerLen - (pcap.FileHeaderLen - len(encryptedMagic))

func (h *header) name() name { return name{h.seq, h.epoch.ID, h.first, h.encrypted()} }

func (h *header) append(dst []byte) []byte {
	start, le := len(dst), binary.LittleEndian
	dst = append(dst, magic...)
	dst = le.AppendUint16(dst, version)
	dst = le.AppendUint16(dst, h.flags|uint16(h.ending.flags()))
	dst = le.AppendUint32(dst, 0) // CRC
	dst = append(dst, h.epoch.ID[:]...)
	dst = le.AppendUint64(dst, h.seq)
	dst = le.AppendUint64(dst, uint64(h.first))
	dst = le.AppendUint64(dst, h.ordinal)
	dst = le.AppendUint64(dst, uint64(h.created))
	dst = le.AppendUint64(dst, uint64(h.arrival))
	dst = le.AppendUint64(dst, uint64(h.latest))
	dst = le.AppendUint32(dst, h.epoch.Snaplen)
	dst = le.AppendUint16(dst, uint16(h.epoch.LinkType))
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint32(dst, h.generation)
	interfaceText, agent := cut(h.epoch.Interface, wire.MaxDescriptionLen), cut(h.epoch.Agent, wire.MaxAgentLen)
	dst = le.AppendUint16(dst, uint16(len(interfaceText)))
	dst = le.AppendUint16(dst, uint16(len(agent)))
	dst = append(dst, interfaceText...)
	dst = append(dst, agent...)
	dst = append(dst, make([]byte, start+headerLen-len(dst))...)
	if h.encrypted() {
		copy(dst[start+encryptedAt:], h.fileHeader()[len(encryptedMagic):])
	}
	le.PutUint32(dst[start+12:], crcAround(dst[start:], 12))
	return dst
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// crcAround is the CRC-32C of b without the four bytes at offset at.
func crcAround(b []byte, at int) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:at]), castagnoli, b[at+4:])
}

// parseHeader reads the header of the index of segment n. What it accepts is
// what append writes.
func parseHeader(b []byte, n name) (h header, ok bool) {
	le := binary.LittleEndian
	if len(b) < headerLen || string(b[:8]) != magic || le.Uint16(b[8:]) != version {
		return h, false
	}
	b = b[:headerLen]
	if le.Uint32(b[12:]) != crcAround(b, 12) {
		return h, false
	}
	h = header{
		flags:      le.Uint16(b[10:]),
		seq:        le.Uint64(b[32:]),
		first:      wire.PacketNumber(le.Uint64(b[40:])),
		ordinal:    le.Uint64(b[48:]),
		created:    int64(le.Uint64(b[56:])),
		arrival:    int64(le.Uint64(b[64:])),
		latest:     int64(le.Uint64(b[72:])),
		generation: le.Uint32(b[88:]),
	}
	h.epoch = Epoch{ID: wire.Epoch(b[16:32]), Snaplen: le.Uint32(b[80:]), LinkType: pcap.LinkType(le.Uint16(b[84:]))}
	texts, long := b[96:], int(le.Uint16(b[92:]))
	agent := int(le.Uint16(b[94:]))
	if long > wire.MaxDescriptionLen || agent > wire.MaxAgentLen || h.flags&^knownFlags != 0 || h.name().String() != n.String() {
		return h, false
	}
	h.ending = endingOf(uint8(h.flags))
	if h.flags &= headerFlags; h.encrypted() {
		copy(h.encryption.salt[:], b[encryptedAt+2:])
		copy(h.encryption.key[:], b[encryptedAt+8:])
	}
	h.epoch.Interface, h.epoch.Agent = string(texts[:long]), string(texts[long:long+agent])
	return h, true
}

// An entry of an index describes one batch, gap or end, in the order of the
// packet numbers. FORMAT.md has its layout.
type entry struct {
	kind     Kind
	flags    uint8
	cause    wire.Cause // of a gap
	first    wire.PacketNumber
	count    uint64 // packets of a batch or a gap; of a seal: packets in the segment
	crc      uint32 // of a batch: as the sensor made it
	earliest int64
	latest   int64
	arrival  int64
	ordinal  uint64 // of the first packet of a batch, or of the next one
	offset   uint32 // of the records in the pcap file, or where the next ones will stand
	length   uint32 // of the records
}

// Flags of an entry.
const (
	// flagConfirmed: everything before this entry had reached the disk, as far
	// as the disk tells, before this entry was written.
	flagConfirmed = 1 << 0

	flagFinal   = 1 << 1 // of an end, a seal or a header: the stream has ended for good
	flagEnded   = 1 << 2 // of a seal or a header: the epoch has ended
	flagUnknown = 1 << 3 // of a seal or a header: a gap of unknown count stands at the end
)

// next is the number after the last packet.
func (e *entry) next() wire.PacketNumber {
	if e.kind == Batch || e.kind == Gap {
		return e.first + wire.PacketNumber(e.count)
	}
	return e.first
}

// end is the offset after the records.
func (e *entry) end() int64 { return int64(e.offset) + int64(e.length) }

// ordinalAfter is the ordinal of the packet after the entry's. After a gap that
// stands where a damaged batch stood it is higher; the next entry says so.
func (e *entry) ordinalAfter() uint64 {
	if e.kind == Batch {
		return e.ordinal + e.count
	}
	return e.ordinal
}

// put writes the entry to the entryLen bytes of b, for the segment that has the
// seed.
func (e *entry) put(b []byte, seed uint32) {
	le := binary.LittleEndian
	b = b[:entryLen]
	b[0], b[1] = byte(e.kind), e.flags
	le.PutUint16(b[2:], uint16(e.cause))
	le.PutUint64(b[8:], uint64(e.first))
	le.PutUint64(b[16:], e.count)
	if e.kind == Batch {
		le.PutUint32(b[20:], e.crc)
	}
	le.PutUint64(b[24:], uint64(e.earliest))
	le.PutUint64(b[32:], uint64(e.latest))
	le.PutUint64(b[40:], uint64(e.arrival))
	le.PutUint64(b[48:], e.ordinal)
	le.PutUint32(b[56:], e.offset)
	le.PutUint32(b[60:], e.length)
	le.PutUint32(b[4:], entryCRC(b, seed))
}

// entryCRC covers the segment's number and epoch as well, by its seed, so that
// an entry of another file is none of this one.
func entryCRC(b []byte, seed uint32) uint32 {
	crc := crc32.Update(seed, castagnoli, b[:4])
	return crc32.Update(crc, castagnoli, b[8:entryLen])
}

// seed is the CRC-32C of the segment's number and epoch.
func (n name) seed() uint32 {
	b := binary.LittleEndian.AppendUint64(nil, n.seq)
	return crc32.Update(0, castagnoli, append(b, n.epoch[:]...))
}

// parseEntry reads an entry of the index of the segment that has the seed, and
// checks what can be checked without its neighbors.
func parseEntry(b []byte, seed uint32) (e entry, ok bool) {
	le := binary.LittleEndian
	b = b[:entryLen]
	if le.Uint32(b[4:]) != entryCRC(b, seed) {
		return e, false
	}
	e = entry{
		kind:     Kind(b[0]),
		flags:    b[1],
		cause:    wire.Cause(le.Uint16(b[2:])),
		first:    wire.PacketNumber(le.Uint64(b[8:])),
		count:    le.Uint64(b[16:]),
		earliest: int64(le.Uint64(b[24:])),
		latest:   int64(le.Uint64(b[32:])),
		arrival:  int64(le.Uint64(b[40:])),
		ordinal:  le.Uint64(b[48:]),
		offset:   le.Uint32(b[56:]),
		length:   le.Uint32(b[60:]),
	}
	if e.kind == Batch {
		e.crc, e.count = uint32(e.count>>32), e.count&0xffffffff
	}
	return e, e.sane()
}

func (e *entry) sane() bool {
	if e.next() < e.first || e.ordinalAfter() < e.ordinal || e.offset < pcap.FileHeaderLen {
		return false
	}
	if e.kind == Batch {
		return e.count > 0 && e.length > 0 && e.length <= wire.MaxBatchLen
	}
	return e.kind >= Batch && e.kind <= seal && e.length == 0
}

// gap is what a gap entry says.
func (e *entry) gap() wire.Gap {
	return wire.Gap{First: e.first, Count: e.count, Cause: e.cause, Earliest: e.earliest, Latest: e.latest}
}

// putBatchHeader writes the header that came with the batch to b.
func (e *entry) putBatchHeader(b []byte) {
	le := binary.LittleEndian
	b = b[:wire.BatchHeaderLen]
	le.PutUint64(b[0:], uint64(e.first))
	le.PutUint32(b[8:], uint32(e.count))
	le.PutUint32(b[12:], e.crc)
	le.PutUint64(b[16:], uint64(e.earliest))
	le.PutUint64(b[24:], uint64(e.latest))
}

// verify checks the records of a batch.
func (e *entry) verify(records []byte) error {
	var b [wire.BatchHeaderLen]byte
	e.putBatchHeader(b[:])
	return wire.VerifyBatch(b[:], records)
}
