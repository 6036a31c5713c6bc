package journal

import (
	"slices"
	"time"

	"poip/internal/wire"
)

const (
	// chunkLen is the size of the pieces of memory that the records of a busy
	// stream wait in, and of its writes. Half as much cost a twenty-fifth of the
	// rate, an eighth as much another twentieth (Linux 6.18, ext4, virtio).
	chunkLen = 2 << 20

	// smallChunkLen is that of a piece before which less than that waits: all that
	// most streams ever need.
	smallChunkLen = 64 << 10

	// mostSpare is how many chunks are kept for what will come, until the journal
	// rests: what a relay lets wait for the disk.
	mostSpare = 16
)

// A backlog is what was appended and is not durable: items, and the bytes of
// their records in chunks. It is kept until the disk has confirmed it, since
// what a failed fsync leaves behind has to be written again elsewhere.
//
// Positions of bytes count from Open. A position is as far behind the beginning
// of a block as its byte is in memory; and, mostly, in the file that it goes to,
// so that it can be written from here.
type backlog struct {
	items  []item
	first  int    // of items, that is still wanted
	serial uint64 // of that one
	chunks []chunk
	end    int64 // position after the last byte
	spare  [][]byte
}

// A chunk is memory for records: whole blocks.
type chunk struct {
	at     int64 // position of its first byte
	memory []byte
}

func (c *chunk) end() int64 { return c.at + int64(len(c.memory)) }

// align leaves out as much as it takes for what comes next to be so far behind
// the beginning of a block.
func (b *backlog) align(offset int64) { b.end += (offset - b.end) & (blockLen - 1) }

// An item is a batch, a gap, an end, or the beginning of a segment.
type item struct {
	begin *Epoch // not nil: what follows belongs to it
	jump  bool   // with begin: numbers before first were left out on purpose
	entry entry  // offset is not set; of a begin: first, ordinal and arrival
	at    int64  // position of the records
}

// place says where the log stands after it, if it stood at p before.
func (it *item) place(p place) place {
	if it.begin != nil {
		p.begun++
		if p.epoch == nil || p.epoch.ID != it.begin.ID {
			p.latest, p.ending = 0, ending{}
		}
		p.epoch = it.begin
		p.jump = it.jump
	} else {
		p.arrival = max(p.arrival, it.entry.arrival)
		p.jump = false
		p.ending = p.after(&it.entry)
		if it.entry.kind == Batch && (p.latest == 0 || it.entry.latest > p.latest) {
			p.latest = it.entry.latest
		}
	}
	p.serial++
	p.next, p.ordinal = it.entry.next(), it.entry.ordinalAfter()
	p.bytes += int64(it.entry.length)
	return p
}

// room makes room for n bytes at the end and appends its pieces to dst.
func (b *backlog) room(dst [][]byte, n int) [][]byte {
	for at := b.end; n > 0; {
		if len(b.chunks) == 0 || b.chunks[len(b.chunks)-1].end() <= at {
			b.chunks = append(b.chunks, chunk{at: at &^ (blockLen - 1), memory: b.memory(at + int64(n))})
		}
		last := &b.chunks[len(b.chunks)-1]
		piece := last.memory[at-last.at:]
		piece = piece[:min(n, len(piece))]
		dst = append(dst, piece)
		n -= len(piece)
		at += int64(len(piece))
	}
	return dst
}

// memory is that of the next chunk, if what waits will end there.
func (b *backlog) memory(end int64) []byte {
	if end-b.wanted() < smallChunkLen {
		return aligned(smallChunkLen)
	}
	if n := len(b.spare); n > 0 {
		m := b.spare[n-1]
		b.spare[n-1], b.spare = nil, b.spare[:n-1]
		return m
	}
	return newChunk()
}

// wanted is the position of the first byte that is.
func (b *backlog) wanted() int64 {
	if b.first < len(b.items) {
		return b.items[b.first].at
	}
	return b.end
}

// push appends an item whose bytes stand in the room that was made for it.
func (b *backlog) push(it item) {
	if len(b.items) == cap(b.items) && b.first > len(b.items)/2 {
		b.items = b.items[:copy(b.items, b.items[b.first:])]
		b.first = 0
	}
	b.items = append(b.items, it)
	b.end += int64(it.entry.length)
}

// from appends the items from a serial number on to dst, at most n.
func (b *backlog) from(dst []item, serial uint64, n int) []item {
	rest := b.items[b.first+int(serial-b.serial):]
	return append(dst, rest[:min(n, len(rest))]...)
}

// bytes appends the pieces of memory that hold what stands from one position
// to another to dst.
func (b *backlog) bytes(dst [][]byte, from, to int64) [][]byte {
	for i := 0; from < to; i++ {
		c := &b.chunks[i]
		if c.end() <= from {
			continue
		}
		piece := c.memory[from-c.at : min(c.end(), to)-c.at]
		dst = append(dst, piece)
		from += int64(len(piece))
	}
	return dst
}

// forget drops what stands before p, and keeps some large chunks for what will
// come; none where little has.
func (b *backlog) forget(p *place) {
	before := b.wanted()
	n := int(p.serial - b.serial)
	clear(b.items[b.first : b.first+n])
	b.first, b.serial = b.first+n, p.serial
	if b.first == len(b.items) {
		b.first, b.items = 0, b.items[:0]
	}
	wanted := b.wanted()
	done := 0
	for ; done < len(b.chunks) && b.chunks[done].end() <= wanted; done++ {
		b.put(b.chunks[done].memory)
	}
	b.chunks = slices.Delete(b.chunks, 0, done)
	if wanted-before < smallChunkLen {
		b.free()
	}
}

// put takes memory that is not wanted any more.
func (b *backlog) put(m []byte) {
	switch {
	case len(m) != chunkLen: // the garbage collector's
	case len(b.spare) < mostSpare:
		b.spare = append(b.spare, m)
	default:
		freeChunk(m)
	}
}

// free gives back what is kept for what will come.
func (b *backlog) free() {
	for _, m := range b.spare {
		freeChunk(m)
	}
	b.spare = nil
}

// rest gives all memory back: nobody wants what is there.
func (b *backlog) rest() {
	for _, c := range b.chunks {
		b.put(c.memory)
	}
	b.free()
	b.items, b.first, b.chunks = nil, 0, nil
}

// Begin says that what follows belongs to e, from packet number first on. It
// opens a segment unless that merely continues.
func (j *Journal) Begin(e Epoch, first wire.PacketNumber) {
	j.mu.Lock()
	defer j.mu.Unlock()
	same := j.tip.epoch != nil && *j.tip.epoch == e
	if j.begun && same && j.tip.next == first {
		return
	}
	known := j.tip.epoch != nil && j.tip.epoch.ID == e.ID
	if !same {
		j.begin(&e, first, known && j.tip.next != first)
		return
	}
	j.begin(j.tip.epoch, first, j.tip.next != first)
}

// begin is Begin, for holders of mu.
func (j *Journal) begin(e *Epoch, first wire.PacketNumber, jump bool) {
	j.begun = true
	j.push(item{begin: e, jump: jump, at: j.backlog.end, entry: entry{first: first, ordinal: j.tip.ordinal, arrival: j.tip.arrival}})
}

// follow sees to it that number first can be appended.
func (j *Journal) follow(first wire.PacketNumber) {
	if j.tip.epoch == nil {
		panic("journal: appended to before Begin")
	}
	if !j.begun || j.tip.next != first {
		j.begin(j.tip.epoch, first, j.tip.next != first)
	}
}

// Append copies a batch: the wire.BatchHeaderLen bytes of its header as they
// came, and its records, both verified by the caller. It never waits for the
// disk and never fails. arrival is the owner's stamp; it does not fall.
func (j *Journal) Append(header, records []byte, arrival int64) {
	h := wire.ParseBatchHeader(header)
	j.mu.Lock()
	j.follow(h.First)
	j.backlog.align(j.shift + j.tip.bytes)
	it := item{at: j.backlog.end, entry: entry{
		kind:     Batch,
		first:    h.First,
		count:    uint64(h.Count),
		crc:      h.CRC,
		earliest: h.Earliest,
		latest:   h.Latest,
		arrival:  arrival,
		ordinal:  j.tip.ordinal,
		length:   uint32(len(records)),
	}}
	j.pieces = j.backlog.room(j.pieces[:0], len(records))
	j.filling = true
	j.mu.Unlock()
	for _, piece := range j.pieces { // nobody looks there before push
		records = records[copy(piece, records):]
	}
	clear(j.pieces)
	j.mu.Lock()
	j.filling = false
	j.push(it)
	j.mu.Unlock()
}

// Gap appends a gap.
func (j *Journal) Gap(g wire.Gap, arrival int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.follow(g.First)
	j.push(item{at: j.backlog.end, entry: entry{
		kind:     Gap,
		cause:    g.Cause,
		first:    g.First,
		count:    g.Count,
		earliest: g.Earliest,
		latest:   g.Latest,
		arrival:  arrival,
		ordinal:  j.tip.ordinal,
	}})
}

// End says that the epoch is over, and with final that its stream is: then
// nothing comes that could share a sync with it, and it does not wait for one.
func (j *Journal) End(final bool, arrival int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.follow(j.tip.next)
	e := entry{kind: End, first: j.tip.next, arrival: arrival, ordinal: j.tip.ordinal}
	if final {
		e.flags = flagFinal
		j.hurry()
	}
	j.push(item{at: j.backlog.end, entry: e})
}

// push appends an item and wakes the committer, if it does not know that there
// is something to do.
func (j *Journal) push(it item) {
	j.backlog.push(it)
	before := j.tip.bytes - j.durable.bytes
	if j.tip.serial == j.durable.serial {
		j.oldest = time.Now()
		j.signal()
	}
	j.tip = it.place(j.tip)
	if after := j.tip.bytes - j.durable.bytes; before < j.o.Batch && after >= j.o.Batch {
		j.signal()
	}
}
