package journal

import (
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A segment is a piece of the log: one epoch, one link type, packet numbers
// without a hole. On the disk it is a pcap file and an index.
type segment struct {
	// Set once.
	header header
	name   name
	seed   uint32 // of its entries
	began  time.Time
	from   wire.PacketNumber // numbers from here to the first are missing; mostly none

	// Guarded by Journal.mu.
	generation uint32
	noPackets  bool    // there is no pcap file
	complete   bool    // nothing more will be written
	sealed     bool    // the index ends with a seal
	gone       bool    // not in the journal any more
	suspect    bool    // somebody saw damage
	sum        summary // of what is written
}

// summary is what entries come to. It continues where a segment begins.
type summary struct {
	entries      int64
	next         wire.PacketNumber
	ordinal      uint64
	packets      uint64
	size         int64 // of the pcap file
	earliest     int64 // packet times
	latest       int64
	firstArrival int64
	lastArrival  int64
	ending
}

func (h *header) summary() summary {
	return summary{next: h.first, ordinal: h.ordinal, size: pcap.FileHeaderLen, lastArrival: h.arrival, ending: h.ending}
}

// follows says whether e can be the entry after those that s knows of. After a
// hole it may stand further on.
func (s *summary) follows(e *entry) bool {
	return e.first >= s.next && e.ordinal >= s.ordinal && int64(e.offset) >= s.size
}

func (s *summary) add(e *entry) {
	if s.entries == 0 {
		s.firstArrival = e.arrival
	}
	s.entries++
	s.ending = s.after(e)
	s.next, s.ordinal, s.size = e.next(), e.ordinalAfter(), e.end()
	s.lastArrival = max(s.lastArrival, e.arrival)
	if e.kind == Batch {
		s.see(e.earliest, e.latest)
		s.packets += e.count
	}
}

// after is how an epoch stands after one more entry.
func (s ending) after(e *entry) ending {
	switch {
	case e.kind == End:
		s.ended, s.final = true, e.flags&flagFinal != 0
	case e.kind == Gap && e.count == 0:
		s.unknown = true
	default:
		s.unknown = false
	}
	return s
}

func (s *summary) see(earliest, latest int64) {
	if s.packets == 0 {
		s.earliest, s.latest = earliest, latest
		return
	}
	s.earliest, s.latest = min(s.earliest, earliest), max(s.latest, latest)
}

// seal is the entry that vouches for all before it.
func (s *summary) seal() entry {
	e := entry{
		kind:     seal,
		flags:    flagConfirmed,
		first:    s.next,
		count:    s.packets,
		earliest: s.earliest,
		latest:   s.latest,
		arrival:  s.lastArrival,
		ordinal:  s.ordinal,
		offset:   uint32(s.size),
	}
	e.flags |= s.ending.flags()
	return e
}

// flags is how an index says it.
func (s ending) flags() (flags uint8) {
	if s.ended {
		flags |= flagEnded
	}
	if s.final {
		flags |= flagFinal
	}
	if s.unknown {
		flags |= flagUnknown
	}
	return flags
}

func endingOf(flags uint8) ending {
	return ending{ended: flags&flagEnded != 0, final: flags&flagFinal != 0, unknown: flags&flagUnknown != 0}
}

// unseal is the summary that a seal, as entry number entries, stands for.
func unseal(e *entry, entries int64) summary {
	return summary{
		entries:     entries,
		next:        e.first,
		ordinal:     e.ordinal,
		packets:     e.count,
		size:        int64(e.offset),
		earliest:    e.earliest,
		latest:      e.latest,
		lastArrival: e.arrival,
		ending:      endingOf(e.flags),
	}
}

// lengths are those of the segment's files, in bytes; for holders of Journal.mu.
func (s *segment) lengths() (index, packets int64) {
	index = headerLen + s.sum.entries*entryLen
	if s.sealed {
		index += entryLen
	}
	if !s.noPackets {
		packets = s.sum.size
	}
	return index, packets
}

// length is how long the files are together; for holders of Journal.mu.
func (s *segment) length() int64 {
	index, packets := s.lengths()
	return index + packets
}

// bytes is what the segment takes on the disk; for holders of Journal.mu.
func (s *segment) bytes() int64 {
	index, packets := s.lengths()
	return blocks(index) + blocks(packets)
}

// leastBytes is what a segment takes on the disk at least: a block for each file.
const leastBytes = 2 * blockLen

// blocks is what a file of n bytes takes on the disk: whole blocks. Else many
// short segments would take several times what they count for.
func blocks(n int64) int64 { return (n + blockLen - 1) &^ (blockLen - 1) }

// lost is how many packets were written to the segment and are not there; for
// holders of Journal.mu.
func (s *segment) lost() uint64 {
	there := s.header.ordinal + s.sum.packets
	return max(s.sum.ordinal, there) - there
}

// Damaged is how many packets, between the oldest on the disk and the newest,
// were there and are not any more. In a journal in which nothing is dropped,
// that is what is known to be damaged.
func (j *Journal) Damaged() (packets uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, s := range j.segments {
		if i > 0 {
			before := j.segments[i-1].sum.ordinal
			packets += max(s.header.ordinal, before) - before
		}
		packets += s.lost()
	}
	return packets
}

// EpochState says where an epoch stands on the disk.
type EpochState struct {
	Epoch
	First         wire.PacketNumber // lowest number that is still on the disk
	Next          wire.PacketNumber // after the highest
	UnknownAtNext bool              // a gap of unknown count stands at Next
	Ended         bool
	Final         bool  // the stream has ended for good
	Latest        int64 // newest packet time; 0: none
	LastArrival   int64
	Packets       uint64 // on the disk
	Bytes         int64  // that they take, with their index, in whole blocks
}

// Packets is how many are on the disk.
func (j *Journal) Packets() (packets uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.segments {
		packets += s.sum.packets
	}
	return packets
}

// Epochs lists what is written, in the order of the log.
func (j *Journal) Epochs() []EpochState {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []EpochState
	for _, s := range j.segments {
		if n := len(all); n == 0 || all[n-1].ID != s.header.epoch.ID {
			all = append(all, EpochState{First: s.header.first, Latest: s.header.latest})
		}
		all[len(all)-1].add(s)
	}
	return all
}

func (e *EpochState) add(s *segment) {
	e.Epoch = s.header.epoch
	e.Next, e.UnknownAtNext = s.sum.next, s.sum.unknown
	e.Ended, e.Final = s.sum.ended, s.sum.final
	e.LastArrival = s.sum.lastArrival
	e.Packets += s.sum.packets
	e.Bytes += s.bytes()
	if s.sum.packets > 0 && (e.Latest == 0 || s.sum.latest > e.Latest) {
		e.Latest = s.sum.latest
	}
}
