package broker

import (
	"encoding/binary"
	"sort"
	"sync"
	"sync/atomic"

	"poip/internal/pcap"
)

// A form is what a listener asks of the records that it hands out.
type form struct {
	nano    bool   // times in nanoseconds, not microseconds
	snaplen uint32 // longest captured length
}

// renditionPages is how many segments a rendition keeps. Readers that keep up
// all read the last one or two; who is farther behind has its own made anew.
const renditionPages = 8

// A rendition is a ring's records in one form. Where the ring has another one,
// they are made once for each batch, when somebody first wants them, and
// shared by all who do.
type rendition struct {
	form  form
	users int // cursors; guarded by ring.mu
	keep  int // pages

	mu    sync.Mutex
	pages []*page // the one begun last is the last one
}

// A page is the rendition of one segment. Like the segment's, its bytes never
// change once they are there.
type page struct {
	refs atomic.Int32 // the rendition's own and one for each slab
	seq  uint64       // of the segment

	// Guarded by rendition.mu.
	buf  []byte
	ends []uint32 // for each mark of the segment, its offset here
}

// A slab is a run of whole records, ready to be written. It is pinned until
// unpin.
type slab struct {
	view view
	page *page    // nil: the segment itself has the form
	data []byte   // from the segment's beginning on
	ends []uint32 // as page.ends; nil: as the marks say
}

// render makes a slab of a view.
func (r *rendition) render(v view) slab {
	if last := v.marks[len(v.marks)-1]; v.segment.micro != r.form.nano && last.longest <= r.form.snaplen {
		return slab{view: v, data: v.segment.buf[:last.end]}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.page(v.segment)
	for i := len(p.ends); i < len(v.marks); i++ {
		p.buf = r.convert(p.buf, v, i)
		p.ends = append(p.ends, uint32(len(p.buf)))
	}
	p.refs.Add(1)
	return slab{view: v, page: p, data: p.buf[:p.ends[len(v.marks)-1]], ends: p.ends[:len(v.marks)]}
}

// convert appends the batch of the i-th mark to dst.
func (r *rendition) convert(dst []byte, v view, i int) []byte {
	var before mark
	if i > 0 {
		before = v.marks[i-1]
	}
	records := v.segment.buf[before.end:v.marks[i].end]
	from := len(dst)
	dst = pcap.Convert(dst, records, !r.form.nano && !v.segment.micro, r.form.snaplen)
	if r.form.nano && v.segment.micro {
		restore(dst[from:], v.nanos[before.packets:])
	}
	return dst
}

// restore makes nanoseconds of microseconds.
func restore(records []byte, nanos []uint16) {
	le := binary.LittleEndian
	for i := 0; len(records) > 0; i++ {
		_, usec, captured, _ := pcap.Record(records)
		le.PutUint32(records[4:], usec*1000+uint32(nanos[i]))
		records = records[pcap.RecordHeaderLen+int(captured):]
	}
}

// page finds the page of a segment, or begins it in place of the oldest.
func (r *rendition) page(s *segment) *page {
	for i := len(r.pages) - 1; i >= 0; i-- {
		if r.pages[i].seq == s.seq {
			return r.pages[i]
		}
	}
	p := new(page)
	if len(r.pages) == r.keep {
		p = r.reuse()
	}
	if cap(p.buf) < len(s.buf) {
		p.buf = make([]byte, 0, len(s.buf))
	}
	p.seq = s.seq
	p.refs.Store(1)
	r.pages = append(r.pages, p)
	return p
}

// reuse takes the oldest page out, and makes it or a new one fit to be begun.
func (r *rendition) reuse() *page {
	p := r.pages[0]
	r.pages = append(r.pages[:0], r.pages[1:]...)
	if p.refs.Add(-1) > 0 {
		return new(page) // its last reader leaves it to the garbage collector
	}
	return &page{buf: p.buf[:0], ends: p.ends[:0]}
}

// unpin ends the hold on the segment and the page.
func (s *slab) unpin(r *ring) {
	if s.page != nil {
		s.page.refs.Add(-1)
	}
	r.unpin(s.view.segment)
}

// end is the offset behind the i-th batch.
func (s *slab) end(i int) int {
	if s.ends != nil {
		return int(s.ends[i])
	}
	return int(s.view.marks[i].end)
}

// before returns the offset and the ordinal of the i-th batch.
func (s *slab) before(i int) (offset int, packets uint64) {
	if i == 0 {
		return 0, s.view.segment.base
	}
	return s.end(i - 1), s.view.segment.base + uint64(s.view.marks[i-1].packets)
}

// resolve returns the offset of a packet.
func (s *slab) resolve(ordinal uint64) int {
	at, n := s.before(markAfter(s.view.marks, uint32(ordinal-s.view.segment.base)))
	for ; n < ordinal; n++ {
		_, _, captured, _ := pcap.Record(s.data[at:])
		at += pcap.RecordHeaderLen + int(captured)
	}
	return at
}

// A tear is where a write has stopped: at the end of a record, or within one.
type tear struct {
	begin  int    // where the record begins that was hit; as end, if none was
	end    int    // where it ends
	whole  uint64 // ordinal behind the records before begin
	behind uint64 // ordinal behind end
}

// tearAt finds the tear of a write that began at offset from, with the packet
// of the given ordinal, and stopped at offset at.
func (s *slab) tearAt(from int, packets uint64, at int) tear {
	if at == len(s.data) {
		_, packets = s.before(len(s.view.marks))
		return tear{at, at, packets, packets}
	}
	i := sort.Search(len(s.view.marks), func(i int) bool { return s.end(i) > at })
	if offset, n := s.before(i); offset > from {
		from, packets = offset, n
	}
	for from < at {
		_, _, captured, _ := pcap.Record(s.data[from:])
		next := from + pcap.RecordHeaderLen + int(captured)
		if next > at {
			return tear{from, next, packets, packets + 1}
		}
		from, packets = next, packets+1
	}
	return tear{at, at, packets, packets}
}
