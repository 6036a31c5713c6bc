package journal

// SeekArrival returns the ordinal from which on everything has arrived at t or
// later, by the owner's stamps. What is not written yet counts as later.
func (j *Journal) SeekArrival(t int64) uint64 {
	j.mu.Lock()
	src, segments := j.source(), append([]*segment(nil), j.segments...)
	end, all := j.written.ordinal, j.tip
	j.mu.Unlock()
	if all.arrival < t {
		return all.ordinal
	}
	if ordinal, found := seekArrival(src, segments, t); found {
		return ordinal
	}
	return end
}

// seekArrival looks for the first entry that arrived at t or later.
func seekArrival(src source, segments []*segment, t int64) (uint64, bool) {
	for _, s := range segments {
		v := src.look(s)
		if v.gone || v.sum.lastArrival < t || v.sum.entries == 0 {
			continue
		}
		r := &Reader{src: src}
		r.at.enter(&v)
		r.view, r.sum = v, s.header.summary()
		if r.open(&v) != nil {
			r.Close()
			return s.header.ordinal, true
		}
		ordinal, found := r.arrived(t)
		r.Close()
		if found {
			return ordinal, true
		}
	}
	return 0, false
}

// arrived looks through the index of one segment.
func (r *Reader) arrived(t int64) (uint64, bool) {
	for r.at.entry < r.view.sum.entries {
		for piece := r.readPiece(); len(piece) > 0; piece = piece[entryLen:] {
			if e, ok := parseEntry(piece, r.view.segment.seed); ok && e.arrival >= t {
				return e.ordinal, true
			}
			r.at.entry++
		}
	}
	return 0, false
}
