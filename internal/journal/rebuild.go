package journal

import (
	"poip/internal/pcap"
	"poip/internal/wire"
)

// rebuiltBatch is the size of the batches that a rebuilt index has, in bytes of
// records, unless a packet is longer.
const rebuiltBatch = 64 << 10

// rebuild makes up for an index that is lost: the records of the pcap file are
// numbered from the segment's first number on. Gaps that stood between them
// are forgotten; what is missing in the end stands before the next segment. Of
// encrypted packets that is all of them.
func (x *examination) rebuild() {
	x.reindex = true
	if x.header.encrypted() {
		x.problem("nothing but the index says where in an encrypted file the batches are")
		x.repack = true
	}
	if x.packets == nil || x.repack {
		x.repack = true
		return
	}
	if info, err := x.packets.Stat(); err == nil { // nothing else says when they arrived
		x.sum.lastArrival = max(x.sum.lastArrival, info.ModTime().UnixNano())
	}
	at := int64(pcap.FileHeaderLen)
	for at < x.size {
		n := x.rebuildBatch(at)
		if n == 0 {
			break
		}
		at += n
	}
	x.torn = at < x.size
	x.repack = x.torn
}

// rebuildBatch makes an entry for the records at an offset, and returns their
// length; 0 if there are none.
func (x *examination) rebuildBatch(at int64) int64 {
	if x.buf == nil {
		x.buf = make([]byte, wire.MaxBatchLen)
	}
	records := x.buf[wire.BatchPrefixLen:]
	got, _ := x.packets.ReadAt(records[:min(int64(len(records)), x.size-at)], at)
	length, count, earliest, latest := x.gather(records[:got])
	if count == 0 || at+int64(length) > mostSegment+wire.MaxBatchLen {
		return 0
	}
	frame := x.buf[:wire.BatchPrefixLen+length]
	wire.SealBatch(frame, wire.BatchHeader{First: x.sum.next, Count: count, Earliest: earliest, Latest: latest})
	h := wire.ParseBatchHeader(frame[wire.FrameHeaderLen:])
	e := entry{
		kind:     Batch,
		first:    h.First,
		count:    uint64(count),
		crc:      h.CRC,
		earliest: earliest,
		latest:   latest,
		arrival:  x.sum.lastArrival,
		ordinal:  x.sum.ordinal,
		offset:   uint32(at),
		length:   uint32(length),
	}
	if h.Next() < h.First {
		return 0
	}
	x.entries = append(x.entries, e)
	x.sum.add(&e)
	return int64(length)
}

// gather takes whole records for one batch, none beyond the limit.
func (x *examination) gather(b []byte) (length int, count uint32, earliest, latest int64) {
	for len(b)-length >= pcap.RecordHeaderLen {
		sec, nsec, captured, original := pcap.Record(b[length:])
		if captured == 0 || captured > pcap.MaxCaptured || captured > original || nsec >= 1e9 {
			break
		}
		end := length + pcap.RecordHeaderLen + int(captured)
		if end > len(b) || count > 0 && end > rebuiltBatch {
			break
		}
		if x.limited && x.sum.next+wire.PacketNumber(count) >= x.limit {
			break
		}
		t := int64(sec)*1e9 + int64(nsec)
		if count == 0 {
			earliest, latest = t, t
		}
		earliest, latest = min(earliest, t), max(latest, t)
		length, count = end, count+1
	}
	return length, count, earliest, latest
}
