package journal

import (
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"

	"poip/internal/wire"
)

// acknowledged is how far the spool is no longer needed.
type acknowledged struct {
	epoch wire.Epoch
	next  wire.PacketNumber
	set   bool
}

// A keptFile is a damaged file in quarantine.
type keptFile struct {
	name string
	size int64 // in whole blocks
}

// Size is how many bytes the journal takes on the disk: packets, indexes, and
// what is in quarantine, each file in whole blocks.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sizeOf()
}

func (j *Journal) sizeOf() (n int64) {
	for _, s := range j.segments {
		n += s.bytes()
	}
	for _, k := range j.kept {
		n += k.size
	}
	return n
}

// doom takes segment i out of the journal; the committer deletes its files.
// For holders of mu.
func (j *Journal) doom(i int) {
	s := j.segments[i]
	j.segments = slices.Delete(j.segments, i, i+1)
	j.discharge(s)
}

// doomOldest is doom of the n oldest segments.
func (j *Journal) doomOldest(n int) {
	oldest := slices.Clone(j.segments[:n])
	j.segments = slices.Delete(j.segments, 0, n)
	for _, s := range oldest {
		j.discharge(s)
	}
}

// discharge has the committer delete the files of a segment that has left the
// journal; for holders of mu.
func (j *Journal) discharge(s *segment) {
	s.gone = true
	// Packets first: an index without its packets, at the beginning of the log,
	// is a segment that was being deleted. Packets without their index are one
	// that has to be saved.
	if !s.noPackets {
		j.doomed = append(j.doomed, s.name.packets(s.generation))
	}
	j.doomed = append(j.doomed, s.name.index())
	j.freed()
}

// freed has the committer delete files, and write if it lacked the space.
func (j *Journal) freed() {
	if j.trouble != nil {
		j.urgent = true
	}
	j.signal()
}

// expel deletes the oldest file in quarantine; for holders of mu.
func (j *Journal) expel() (freed int64) {
	k := j.kept[0]
	j.kept = j.kept[1:]
	j.doomed = append(j.doomed, k.name)
	j.freed()
	return k.size
}

// deleteDoomed deletes files, but no index while there is no segment: a crash
// must leave somebody who knows how far the log got.
func (c *committer) deleteDoomed() {
	j := c.j
	j.mu.Lock()
	doomed := j.doomed
	j.doomed = nil
	if len(j.segments) == 0 {
		isIndex := func(name string) bool { return strings.HasSuffix(name, indexSuffix) }
		j.doomed = slices.DeleteFunc(slices.Clone(doomed), func(name string) bool { return !isIndex(name) })
		doomed = slices.DeleteFunc(doomed, isIndex)
	}
	j.mu.Unlock()
	for _, name := range doomed {
		if err := j.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			j.log.Warn("file cannot be deleted", "file", name, "err", err)
		}
	}
	if len(doomed) > 0 && !j.o.NoSync {
		if err := j.fs.SyncDir("."); err != nil {
			j.log.Warn("deleted files may come back after a power cut", "err", err)
		}
	}
}

// TrimBelow says that all epochs before this one, and the numbers of this one
// below n, are needed no more. Segments that hold nothing else are deleted;
// the last one is when another has begun in its place.
func (j *Journal) TrimBelow(epoch wire.Epoch, n wire.PacketNumber) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trimmed = acknowledged{epoch: epoch, next: n, set: true}
	j.trim()
}

// trim is TrimBelow, for holders of mu. It is done again after each round,
// since a segment may have begun.
func (j *Journal) trim() {
	if !j.trimmed.set {
		return
	}
	last := -1 // of the segments that are not needed
	for i, s := range j.segments {
		if s.header.epoch.ID == j.trimmed.epoch {
			last = i - 1
			break
		}
	}
	if last < 0 && (len(j.segments) == 0 || j.segments[0].header.epoch.ID != j.trimmed.epoch) {
		return // the epoch is not written yet
	}
	for last+1 < len(j.segments) && j.needless(j.segments[last+1]) {
		last++
	}
	n := 0 // of these, that can go now
	for n <= last && n < len(j.segments)-1 && j.segments[n] != j.tail {
		n++
	}
	j.doomOldest(n)
	if n <= last && len(j.segments) == 1 && (IsFull(j.trouble) || j.segments[0].length() >= j.o.Segment/4) && j.spare() {
		j.doom(0)
	}
}

// needless says whether a segment of the epoch that is being acknowledged holds
// numbers below the mark and nothing else: an end, or a gap of unknown count,
// has no number, and is needed until the epoch is done with.
func (j *Journal) needless(s *segment) bool {
	if s.header.epoch.ID != j.trimmed.epoch || s.sum.next > j.trimmed.next {
		return false
	}
	return s.sum.next < j.trimmed.next || !s.sum.ended && !s.sum.unknown
}

// spare says whether the last segment can go now, with all others. First it has
// to be replaced by an empty one, which this starts; but not where the disk has
// no room for that as long as it is there.
func (j *Journal) spare() bool {
	s := j.segments[len(j.segments)-1]
	if j.renew && s.complete && IsFull(j.trouble) {
		return true
	}
	if s.sum.entries > 0 {
		j.renew = true
		j.signal()
	}
	return false
}

// manySegments is how many Keep leaves at least. Each takes memory, and time
// whenever all are looked at, whatever it holds: short epochs are a segment each.
const manySegments = 4096

// mostSegments is how many Keep leaves in so many bytes: far more than these
// make where segments are filled.
func (j *Journal) mostSegments(bytes int64) int { return int(max(manySegments, 2*(bytes/j.o.Segment))) }

// Excess is by how many bytes the journal takes more than Keep leaves, if it is
// to take so many. Segments that are too many count as what the least one takes.
func (j *Journal) Excess(bytes int64) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return max(0, j.sizeOf()-bytes, int64(len(j.segments)-j.mostSegments(bytes))*leastBytes)
}

// Keep deletes the oldest segments while the journal takes more than so many
// bytes or has more segments than are sensible, or while all that the oldest one
// holds arrived before since. It says how many packets and bytes went. The last
// segment, if it has to go, is replaced by an empty one first, and goes at the
// next call; or at the next but one where the disk is too full for that.
func (j *Journal) Keep(bytes, since int64) (packets uint64, freed int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	packets, freed, _ = j.keep(bytes, since, math.MaxUint64)
	return packets, freed
}

// KeepFrom is Keep, but leaves all packets from an ordinal on. Where more would
// have to go else, for want of room, held is the ordinal that has to be passed
// first; otherwise it is 0.
func (j *Journal) KeepFrom(ordinal uint64, bytes, since int64) (packets, held uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	packets, _, held = j.keep(bytes, since, ordinal)
	return packets, held
}

// keep is KeepFrom, for holders of mu.
func (j *Journal) keep(bytes, since int64, ordinal uint64) (packets uint64, freed int64, held uint64) {
	size, most := j.sizeOf(), j.mostSegments(bytes)
	for size-freed > bytes && len(j.kept) > 0 {
		freed += j.expel()
	}
	n := 0 // of the segments, that go
	for ; n < len(j.segments); n++ {
		s, left := j.segments[n], len(j.segments)-n
		over := size-freed > bytes || left > most
		if !over && s.sum.lastArrival >= since {
			break
		}
		if s.sum.ordinal > ordinal {
			if over {
				held = s.sum.ordinal
			}
			break
		}
		if left == 1 && !j.spare() {
			break
		}
		packets += s.sum.packets
		freed += s.bytes()
	}
	j.doomOldest(n)
	return packets, freed, held
}
