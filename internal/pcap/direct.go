package pcap

import (
	"encoding/binary"
	"math"
)

// A Run is records that stand one after another.
type Run struct {
	Len      int   // in bytes
	Count    int   // of records
	Earliest int64 // time of any, in nanoseconds since 1970; as Latest
	Latest   int64
}

// Direct says that Records can read the input now: it is a pcap file of which
// the records look like ours, but for the unit of their times, and no whole one
// of them is held.
func (r *Reader) Direct() bool {
	c := r.direct
	if c == nil || r.in.err != nil {
		return false
	}
	held := r.in.held()
	return len(held) < RecordHeaderLen || len(held)-RecordHeaderLen < int(binary.LittleEndian.Uint32(held[8:]))
}

// Records reads from the input straight into dst, which saves a copy of each record,
// and returns what whole ones dst then begins with. It is called where Direct says
// so. It reads once and may find none: the next does not fit, has no bytes or is
// damaged, or the input has ended. That is for Next to tell.
func (r *Reader) Records(dst []byte) Run {
	w := r.in
	dst = dst[:min(len(dst), len(w.buf))]
	held := copy(dst, w.held())
	if held == len(dst) {
		return Run{}
	}
	var got int
	got, w.err = w.in.Read(dst[held:])
	dst = dst[:held+got]
	run := r.direct.adopt(dst)
	w.replace(dst[run.Len:], run.Len)
	return run
}

// adopt puts the whole records at the start of b into the record form, in place. It
// stops at one that needs more than other numbers in its header.
func (c *classic) adopt(b []byte) Run {
	le := binary.LittleEndian
	run := Run{Earliest: math.MaxInt64, Latest: math.MinInt64}
	for len(b)-run.Len >= RecordHeaderLen {
		header := b[run.Len : run.Len+RecordHeaderLen : run.Len+RecordHeaderLen]
		captured, nsec := le.Uint32(header[8:]), le.Uint32(header[4:])*c.unit
		if captured == 0 || captured > MaxCaptured || nsec >= 1e9 {
			break
		}
		next := run.Len + RecordHeaderLen + int(captured)
		if next > len(b) {
			break
		}
		le.PutUint32(header[4:], nsec)
		if captured > le.Uint32(header[12:]) {
			le.PutUint32(header[12:], captured)
		}
		at := int64(le.Uint32(header))*1e9 + int64(nsec)
		run.Earliest, run.Latest = min(run.Earliest, at), max(run.Latest, at)
		run.Len = next
		run.Count++
	}
	return run
}
