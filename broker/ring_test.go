package broker

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"poip/internal/pcap"
)

// canonical is the form in which records arrive.
var canonical = form{nano: true, snaplen: pcap.MaxCaptured}

// numbered is a record that holds its ordinal, of size bytes, at least 8.
func numbered(ordinal uint64, size int) []byte {
	data := make([]byte, size)
	binary.LittleEndian.PutUint64(data, ordinal)
	for i := 8; i < size; i++ {
		data[i] = byte(ordinal) + byte(i)
	}
	return pcap.AppendRecord(nil, uint32(ordinal), uint32(ordinal%1000)*1000+7, uint32(size)+1, data)
}

// ringModel knows all that a ring was ever given.
type ringModel struct {
	t       *rapid.T
	ring    *ring
	records [][]byte // by ordinal
	readers []*ringReader
}

// ringReader takes bytes as a socket would, in pieces of any length.
type ringReader struct {
	cursor  *cursor
	got     []byte // whole records and what has been taken of the last one
	rest    []byte // of a record that was torn
	skipped uint64
	ordinal uint64 // of the next whole record in got
}

func (m *ringModel) commit(sizes []int) {
	var batch []byte
	for _, size := range sizes {
		r := numbered(uint64(len(m.records)), size)
		m.records = append(m.records, r)
		batch = append(batch, r...)
	}
	copy(m.ring.reserve(len(batch)), batch)
	m.ring.commit(len(batch), len(sizes))
}

func (m *ringModel) attach(f form, oldest, blocks bool) {
	c := &cursor{blocks: blocks}
	m.ring.attach(c, f, outsetOf(oldest))
	m.readers = append(m.readers, &ringReader{cursor: c, ordinal: c.packets})
}

// read lets a reader's socket take up to most bytes.
func (m *ringModel) read(r *ringReader, most int) {
	if len(r.rest) > 0 {
		n := min(most, len(r.rest))
		r.got, r.rest = append(r.got, r.rest[:n]...), r.rest[n:]
		m.check(r)
		return
	}
	c := r.cursor
	v, skipped := m.ring.view(c, everything)
	if skipped > 0 && c.blocks {
		m.t.Fatalf("%d packets skipped for a blocking reader", skipped)
	}
	r.skipped, r.ordinal = r.skipped+skipped, r.ordinal+skipped
	if v.segment == nil {
		if c.packets != uint64(len(m.records)) {
			m.t.Fatalf("nothing to read at %d of %d", c.packets, len(m.records))
		}
		return
	}
	s := c.rendition.render(v)
	from, packets := c.offset, c.packets
	if from == unresolved {
		from = s.resolve(packets)
	}
	n := min(most, len(s.data)-from)
	t := s.tearAt(from, packets, from+n)
	r.got = append(r.got, s.data[from:from+n]...)
	r.rest = bytes.Clone(s.data[from+n : t.end])
	m.ring.advance(c, v.segment, t.end, t.behind)
	s.unpin(m.ring)
	m.check(r)
}

// check compares the whole records of got with what was committed.
func (m *ringModel) check(r *ringReader) {
	f := r.cursor.rendition.form
	for len(r.got) >= pcap.RecordHeaderLen {
		want := pcap.Convert(nil, m.records[r.ordinal], !f.nano, f.snaplen)
		n := min(len(want), len(r.got))
		if !bytes.Equal(r.got[:n], want[:n]) {
			m.t.Fatalf("record %d: got %x, want %x", r.ordinal, r.got[:n], want)
		}
		if n < len(want) {
			break
		}
		r.got = r.got[n:]
		r.ordinal++
	}
	if len(r.rest) == 0 && (len(r.got) > 0 || r.ordinal != r.cursor.packets) {
		m.t.Fatalf("read up to %d and %d bytes, cursor at %d", r.ordinal, len(r.got), r.cursor.packets)
	}
	offered, pending := r.cursor.offered(), m.ring.head.Load()-r.cursor.packets
	whole := r.cursor.packets - r.cursor.start - r.skipped
	if offered != whole+r.skipped+pending {
		m.t.Fatalf("offered %d, read %d, skipped %d, pending %d", offered, whole, r.skipped, pending)
	}
}

func TestRingAgainstModel(t *testing.T) {
	sizes := []int{8, 60, 1400, 9000, 65000, 250000}
	forms := []form{canonical, {nano: true, snaplen: 65535}, {snaplen: 65535}, {snaplen: 100}, {nano: true, snaplen: 100}}
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(2, 6).Draw(t, "segments") * segmentLen
		m := &ringModel{t: t, ring: newRing(pcap.LinkEthernet, limit, new(atomic.Uint64))}
		blocking := false
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				size := rapid.SampledFrom(sizes).Draw(t, "size")
				n := rapid.IntRange(1, max(1, min(400, 400000/size))).Draw(t, "packets")
				batch := make([]int, n)
				for i := range batch {
					batch[i] = max(8, size-i%7)
				}
				if m.ring.holding() > 4*limit {
					return // nobody acknowledges any more
				}
				m.commit(batch)
			},
			"attach": func(t *rapid.T) {
				block := rapid.IntRange(0, 9).Draw(t, "block") == 0
				blocking = blocking || block
				m.attach(rapid.SampledFrom(forms).Draw(t, "form"), rapid.Bool().Draw(t, "oldest"), block)
			},
			"detach": func(t *rapid.T) {
				if len(m.readers) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.readers)-1).Draw(t, "reader")
				m.ring.detach(m.readers[i].cursor)
				m.readers = append(m.readers[:i], m.readers[i+1:]...)
			},
			"read": func(t *rapid.T) {
				if len(m.readers) == 0 {
					return
				}
				r := m.readers[rapid.IntRange(0, len(m.readers)-1).Draw(t, "reader")]
				for range rapid.IntRange(1, 8).Draw(t, "times") {
					m.read(r, rapid.SampledFrom([]int{1, 17, 1000, 100000, 1 << 20}).Draw(t, "most"))
				}
			},
			"trim": func(t *rapid.T) {
				m.ring.trim()
			},
			"": func(t *rapid.T) {
				if held := m.ring.holding(); !blocking && held > limit && held > 1<<20 {
					t.Fatalf("holds %d bytes, limit %d", held, limit)
				}
			},
		})
		for _, r := range m.readers { // to the end
			for r.cursor.packets < uint64(len(m.records)) || len(r.rest) > 0 {
				m.read(r, 1<<20)
			}
		}
	})
}

func (r *ring) holding() int {
	_, _, held, _ := r.occupancy()
	return held
}

func TestRingReusesItsMemory(t *testing.T) {
	r := newRing(pcap.LinkEthernet, 4*segmentLen, new(atomic.Uint64))
	batch := bytes.Repeat(numbered(1, 1000), 64)
	round := func() {
		copy(r.reserve(len(batch)), batch)
		r.commit(len(batch), 64)
	}
	for range 100 {
		round()
	}
	c := new(cursor)
	r.attach(c, form{snaplen: 65535}, atTail)
	read := func() {
		v, _ := r.view(c, everything)
		s := c.rendition.render(v)
		r.advance(c, v.segment, len(s.data), r.head.Load())
		s.unpin(r)
	}
	for range 100 {
		round()
		read()
	}
	if n := testing.AllocsPerRun(1000, func() { round(); read() }); n > 0.1 {
		t.Errorf("%v allocations for a batch written and read", n)
	}
}

func TestAViewOutlivesItsSegment(t *testing.T) {
	r := newRing(pcap.LinkEthernet, 2*segmentLen, new(atomic.Uint64))
	fill := func(ordinal uint64) {
		batch := numbered(ordinal, 200000)
		copy(r.reserve(len(batch)), batch)
		r.commit(len(batch), 1)
	}
	fill(1)
	c := new(cursor)
	r.attach(c, canonical, atOldest)
	v, _ := r.view(c, everything)
	s := c.rendition.render(v)
	for i := range uint64(10) {
		fill(i + 2)
	}
	if !bytes.Equal(s.data, numbered(1, 200000)) {
		t.Error("the pinned bytes have changed")
	}
	s.unpin(r)
	if _, skipped := r.view(c, everything); skipped != 9 {
		t.Errorf("skipped %d packets, want 9", skipped) // ring holds the last two of 11
	}
}

// readInOrder is how a subscriber merges several rings.
func TestEarliestKeepsTheOrderOfArrival(t *testing.T) {
	var arrivals atomic.Uint64
	rings := make([]*ring, 3)
	s := &subscriber{arrivals: &arrivals, tally: newTally()}
	for i := range rings {
		rings[i] = newRing(pcap.LinkEthernet, 8<<20, &arrivals)
		c := new(cursor)
		rings[i].attach(c, canonical, atOldest)
		s.cursors = append(s.cursors, c)
	}
	const batches = 5000
	for i := range uint64(batches) {
		r := rings[rand.IntN(len(rings))]
		batch := append(numbered(2*i, 60), numbered(2*i+1, 60)...)
		copy(r.reserve(len(batch)), batch)
		r.commit(len(batch), 2)
	}
	next := uint64(0)
	for next < 2*batches {
		c, before := s.earliest()
		slab, _ := s.slab(c, before)
		from := c.offset
		for at := from; at < len(slab.data); at += 76 {
			if got := binary.LittleEndian.Uint64(slab.data[at+16:]); got != next {
				t.Fatalf("packet %d comes where %d should", got, next)
			}
			next++
		}
		end := slab.tearAt(from, c.packets, len(slab.data))
		c.ring.advance(c, slab.view.segment, end.end, end.behind)
		slab.unpin(c.ring)
	}
	if c, _ := s.earliest(); c != nil {
		t.Error("there is more than there was")
	}
}

func TestARetiredRingKeepsNoMemory(t *testing.T) {
	r := newRing(pcap.LinkEthernet, 4*segmentLen, new(atomic.Uint64))
	record := numbered(1, 1000)
	copy(r.reserve(len(record)), record)
	r.commit(len(record), 1)
	c, d := new(cursor), new(cursor)
	r.attach(c, form{snaplen: 65535}, atOldest)
	r.attach(d, form{snaplen: 65535}, atOldest)
	r.retire()
	r.detach(c)
	if v, _ := r.view(d, everything); v.segment == nil {
		t.Error("a reader has lost what it was to read")
	} else {
		r.unpin(v.segment)
	}
	if r.detach(d); d.offered() != 1 || r.holding() != 0 {
		t.Errorf("offered %d, holds %d bytes", d.offered(), r.holding())
	}
}

func outsetOf(oldest bool) outset {
	if oldest {
		return atOldest
	}
	return atTail
}
