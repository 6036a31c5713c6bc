package journal

import (
	"fmt"
	"os"
	"time"

	"poip/internal/pcap"
)

const (
	// mostRound bounds what one round writes before it syncs, in bytes.
	mostRound = 16 << 20

	// mostGather bounds the entries that are written at once.
	mostGather = 512

	retryDelay = time.Second
	restDelay  = 10 * time.Second // idle, after which memory is given back
)

// A committer writes what was appended, and has the disk confirm it, in
// rounds. All segments but the one that it writes are never written again.
//
// A write that fails for lack of space is repeated at the same place. After a
// failed fsync nobody knows what of the file is on the disk, and a second one
// may say that all is well when it is not: so the file is left at what was
// confirmed before, and the rest is written again to a new one.
type committer struct {
	j   *Journal
	seq uint64 // of the newest segment; owned by the committer's goroutine

	// Of j.tail; owned by the committer's goroutine.
	packets   File
	index     File
	fresh     bool    // the entries of the folder are not confirmed
	flag      bool    // the next entry says that everything before it is confirmed
	confirmed summary // of the tail

	// Scratch.
	items   []item
	pieces  [][]byte
	entries []byte
}

// run makes rounds until the journal is closed.
func (c *committer) run() {
	defer close(c.j.done)
	timer := time.NewTimer(restDelay)
	defer timer.Stop()
	for {
		wait, over := c.due()
		if over {
			c.end()
			return
		}
		if wait <= 0 {
			c.round()
			continue
		}
		timer.Reset(wait)
		select {
		case <-c.j.wake:
		case <-timer.C:
		}
	}
}

// due is how long to wait for the next round.
func (c *committer) due() (wait time.Duration, over bool) {
	j := c.j
	j.mu.Lock()
	defer j.mu.Unlock()
	pending := j.tip.serial != j.durable.serial
	switch {
	case j.closing:
		return 0, true
	case j.urgent:
		return 0, false
	case j.trouble != nil:
		return time.Until(j.retry), false
	case len(j.doomed) > 0 || j.renew || j.retire:
		return 0, false
	case pending && j.tip.bytes-j.durable.bytes >= j.o.Batch:
		return 0, false
	case pending:
		return time.Until(j.oldest.Add(j.o.Delay)), false
	}
	if !j.filling && time.Since(j.oldest) >= restDelay {
		j.backlog.rest()
		return time.Hour, false
	}
	return restDelay, false
}

// round writes what is there and has it confirmed.
func (c *committer) round() {
	j := c.j
	began := time.Now()
	j.mu.Lock()
	j.busy, j.urgent = true, false
	target, before := j.tip.serial, j.durable.serial
	j.mu.Unlock()

	c.deleteDoomed()
	err := c.obey()
	if err == nil {
		err = c.write(target)
	}
	if failed := c.confirm(); failed != nil {
		err = failed
	} else if err != nil && !isFull(err) && j.tail != nil {
		c.abandon(err)
	}

	j.mu.Lock()
	told := j.durable.serial != before || (err == nil) != (j.trouble == nil)
	if j.retry = began; err != nil && (j.trouble != nil || isFull(err)) {
		j.retry = time.Now().Add(retryDelay)
	}
	c.report(err)
	j.trouble = err
	j.busy = false
	j.rounds++
	j.oldest = began
	j.trim()
	j.moved.Broadcast()
	j.mu.Unlock()
	if told && j.o.Committed != nil {
		j.o.Committed()
	}
}

// report logs that trouble began or ended.
func (c *committer) report(err error) {
	switch {
	case err != nil && c.j.trouble == nil:
		c.j.log.Warn("journal cannot be written; trying again", "err", err)
	case err == nil && c.j.trouble != nil:
		c.j.log.Info("journal is being written again")
	}
}

// obey does what others asked for.
func (c *committer) obey() error {
	j := c.j
	j.mu.Lock()
	renew, retire := j.renew, j.retire
	j.mu.Unlock()
	if !renew && !retire {
		return nil
	}
	if err := c.roll(); err != nil {
		return err
	}
	if renew && j.written.epoch != nil {
		if err := c.open(j.written); err != nil {
			return err
		}
	}
	j.mu.Lock()
	j.renew, j.retire = false, false
	j.mu.Unlock()
	return nil
}

// write writes the items before serial number target, or as many as a round
// may.
func (c *committer) write(target uint64) error {
	j := c.j
	for first := j.written.bytes; j.written.bytes-first < mostRound; {
		j.mu.Lock()
		n := min(target-min(target, j.written.serial), mostGather)
		c.items = j.backlog.from(c.items[:0], j.written.serial, int(n))
		j.mu.Unlock()
		if len(c.items) == 0 {
			break
		}
		if err := c.writeItems(c.items); err != nil {
			return err
		}
	}
	return nil
}

func (c *committer) writeItems(items []item) error {
	for len(items) > 0 {
		if items[0].begin != nil {
			if err := c.begin(&items[0]); err != nil {
				return err
			}
			items = items[1:]
			continue
		}
		if c.j.tail == nil || c.full(&items[0], 0) {
			if err := c.roll(); err != nil {
				return err
			}
			if err := c.open(c.j.written); err != nil {
				return err
			}
		}
		n := c.fit(items)
		if err := c.append(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// begin opens the segment that an item asks for.
func (c *committer) begin(it *item) error {
	if err := c.roll(); err != nil {
		return err
	}
	p := it.place(c.j.written)
	if err := c.open(p); err != nil {
		return err
	}
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.j.written = p
	return nil
}

// full says whether an item, after so many bytes more, belongs into the next
// segment.
func (c *committer) full(it *item, more int64) bool {
	s := c.j.tail
	if s.sum.entries == 0 && more == 0 {
		return false
	}
	if s.bytes()+more+2*entryLen+int64(it.entry.length) > c.j.o.Segment {
		return true
	}
	return c.j.o.Age > 0 && time.Since(s.began) > c.j.o.Age
}

// fit is how many items can be written at once; the first can.
func (c *committer) fit(items []item) int {
	bytes := int64(0)
	for n := range items {
		it := &items[n]
		if it.begin != nil || n > 0 && c.full(it, bytes) {
			return n
		}
		bytes += int64(it.entry.length) + entryLen
	}
	return len(items)
}

// append writes items to the tail.
func (c *committer) append(items []item) error {
	j, s := c.j, c.j.tail
	offset := s.sum.size
	c.entries = c.entries[:0]
	for i := range items {
		e := &items[i].entry
		e.offset = uint32(offset)
		offset += int64(e.length)
		if e.flags &^= flagConfirmed; i == 0 && c.flag {
			e.flags |= flagConfirmed
		}
		c.entries = append(c.entries, make([]byte, entryLen)...)
		e.put(c.entries[i*entryLen:], s.name)
	}
	j.mu.Lock()
	at := items[0].at
	c.pieces = j.backlog.bytes(c.pieces[:0], at, at+offset-s.sum.size)
	j.mu.Unlock()
	at = s.sum.size
	for _, piece := range c.pieces {
		if _, err := c.packets.WriteAt(piece, at); err != nil {
			return fmt.Errorf("write packets: %w", err)
		}
		at += int64(len(piece))
	}
	if _, err := c.index.WriteAt(c.entries, headerLen+s.sum.entries*entryLen); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	c.flag = false
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range items {
		s.sum.add(&items[i].entry)
		j.written = items[i].place(j.written)
	}
	return nil
}

// open makes the segment that begins at p.
func (c *committer) open(p place) error {
	j := c.j
	c.seq++ // whatever comes of it: a number is never used twice
	h := header{
		epoch:   *p.epoch,
		seq:     c.seq,
		first:   p.next,
		ordinal: p.ordinal,
		created: time.Now().UnixNano(),
		arrival: p.arrival,
		latest:  p.latest,
		ending:  p.ending,
	}
	if p.jump {
		h.flags = flagJump
	}
	packets, index, err := createSegment(j.fs, &h)
	if err != nil {
		return err
	}
	s := &segment{header: h, name: h.name(), began: time.Now(), from: h.first, sum: h.summary()}
	c.packets, c.index = packets, index
	c.fresh, c.flag, c.confirmed = true, false, s.sum
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append(j.segments, s)
	j.tail = s
	return nil
}

// createSegment makes the files of a segment that is empty.
func createSegment(fsys FS, h *header) (packets, index File, err error) {
	n := h.name()
	packets, err = create(fsys, n.packets(h.generation), pcap.AppendFileHeader(nil, h.epoch.LinkType, h.epoch.Snaplen, true))
	if err != nil {
		return nil, nil, err
	}
	index, err = create(fsys, n.index(), h.append(nil))
	if err != nil {
		packets.Close()
		fsys.Remove(n.packets(h.generation)) // a leftover is dealt with when the journal is opened
		return nil, nil, err
	}
	return packets, index, nil
}

// create makes a file that begins with b.
func create(fsys FS, name string, b []byte) (File, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make segment: %w", err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		fsys.Remove(name)
		return nil, fmt.Errorf("begin segment: %w", err)
	}
	return f, nil
}

// confirm has the disk confirm what was written.
func (c *committer) confirm() error {
	j := c.j
	if j.durable.serial == j.written.serial && !c.fresh {
		return nil
	}
	if err := c.sync(); err != nil {
		c.abandon(err)
		return err
	}
	c.fresh, c.flag, c.confirmed = false, true, j.tail.sum
	j.mu.Lock()
	defer j.mu.Unlock()
	j.durable = j.written
	j.backlog.forget(&j.durable, int(j.o.Batch/chunkLen)+2)
	return nil
}

func (c *committer) sync() error {
	if c.j.o.NoSync {
		return nil
	}
	if c.fresh || c.confirmed.size != c.j.tail.sum.size {
		if err := c.packets.Sync(); err != nil {
			return fmt.Errorf("sync packets: %w", err)
		}
	}
	if err := c.index.Sync(); err != nil {
		return fmt.Errorf("sync index: %w", err)
	}
	if c.fresh {
		if err := c.j.fs.SyncDir("."); err != nil {
			return fmt.Errorf("sync folder: %w", err)
		}
	}
	return nil
}

// abandon leaves the tail at what was confirmed. The rest will be written to
// another segment.
func (c *committer) abandon(err error) {
	j, s := c.j, c.j.tail
	j.log.Warn("segment is given up at what the disk has confirmed", "segment", s.name.String(), "packets", c.confirmed.packets, "err", err)
	// That the files end there is for other readers. Who recovers the journal
	// goes by where the next segment begins.
	c.packets.Truncate(c.confirmed.size)
	c.index.Truncate(headerLen + c.confirmed.entries*entryLen)
	c.close()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.complete = true
	if s.sum = c.confirmed; c.fresh {
		j.doom(len(j.segments) - 1)
	}
	c.fresh = false
	j.written = j.durable
	j.tail = nil
}

func (c *committer) close() {
	c.packets.Close()
	c.index.Close()
	c.packets, c.index = nil, nil
}

// roll ends the tail: all of it is confirmed, and its seal says so.
func (c *committer) roll() error {
	j, s := c.j, c.j.tail
	if s == nil {
		return nil
	}
	if err := c.confirm(); err != nil {
		return err
	}
	err := writeSeal(c.index, s.name, &s.sum, j.o.NoSync)
	if err != nil { // without a seal the segment is read whole when the journal is opened
		j.log.Warn("segment is left without its seal", "segment", s.name.String(), "err", err)
	}
	c.close()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.complete, s.sealed = true, err == nil
	j.tail = nil
	j.mend(s)
	return nil
}

// writeSeal appends the seal to an index whose entries are all confirmed.
func writeSeal(index File, n name, sum *summary, noSync bool) error {
	var b [entryLen]byte
	e := sum.seal()
	e.put(b[:], n)
	if _, err := index.WriteAt(b[:], headerLen+sum.entries*entryLen); err != nil {
		return err
	}
	if noSync {
		return nil
	}
	return index.Sync()
}

// end is the last thing that a committer does.
func (c *committer) end() {
	j := c.j
	if err := c.roll(); err != nil {
		j.log.Warn("segment is left without its end", "err", err)
	}
	if c.packets != nil {
		c.close()
	}
	c.deleteDoomed()
}
