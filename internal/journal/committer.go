package journal

import (
	"fmt"
	"time"

	"poip/internal/pcap"
)

const (
	// mostRound bounds what one round writes before it syncs, in bytes.
	mostRound = 8 << 20

	// mostGather bounds the entries that are written at once.
	mostGather = 512

	retryDelay = time.Second
	restDelay  = 10 * time.Second // idle, after which memory is given back …
	asleep     = time.Hour        // … and then it waits to be woken
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
	cipher    *batchCipher

	// Scratch.
	items   []item
	pieces  [][]byte
	stored  []entry
	entries []byte
	sealed  []byte
	stage   stage
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
		if wait == asleep && c.packets != nil {
			c.cut(&c.j.tail.sum) // others may need the room that is reserved
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
		j.pieces = nil
		c.rest()
		return asleep, false
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
	} else if err != nil && !IsFull(err) && j.tail != nil {
		c.abandon(err)
	}

	j.mu.Lock()
	told := j.durable.serial != before || (err == nil) != (j.trouble == nil)
	if j.retry = began; err != nil && (j.trouble != nil || IsFull(err)) {
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
	j.renew, j.retire = j.renew && !renew, j.retire && !retire // others may have asked meanwhile
	j.mu.Unlock()
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
	h.encrypt(j.o.Key)
	code, err := j.o.Key.cipher(&h)
	if err != nil {
		return err
	}
	packets, index, err := createSegment(j.fs, &h, j.o.NoSync)
	if err != nil {
		return err
	}
	s := &segment{header: h, name: h.name(), seed: h.name().seed(), began: time.Now(), from: h.first, sum: h.summary()}
	c.packets, c.index, c.cipher = packets, index, code
	c.fresh, c.flag, c.confirmed = true, false, s.sum
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append(j.segments, s)
	j.tail = s
	j.shift = pcap.FileHeaderLen - p.bytes
	return nil
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
	j.backlog.forget(&j.durable)
	return nil
}

func (c *committer) sync() error {
	if c.j.o.NoSync {
		return nil
	}
	packets := make(chan error, 1)
	if c.fresh || c.confirmed.size != c.j.tail.sum.size {
		go func(f File) { packets <- f.Sync() }(c.packets) // at once, so that the file system commits once
	} else {
		packets <- nil
	}
	err := c.index.Sync()
	if failed := <-packets; failed != nil {
		return fmt.Errorf("sync packets: %w", failed)
	}
	if err != nil {
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
	j.mu.Lock()
	s.sum, j.written = c.confirmed, j.durable // before the files end there: Readers take it for damage else
	j.mu.Unlock()
	// That the files end there is for other readers. Who recovers the journal
	// goes by where the next segment begins.
	c.cut(&c.confirmed)
	c.close()
	j.mu.Lock()
	defer j.mu.Unlock()
	s.complete = true
	if c.fresh {
		j.doom(len(j.segments) - 1)
		j.renew = j.renew || len(j.segments) == 0 // some index has to say how far the log has got
	}
	c.fresh = false
	j.tail = nil
}

// cut takes from the files of the tail what stands behind s: what a write that
// failed has left there, and room that was reserved. If that fails it costs
// space and nothing else.
func (c *committer) cut(s *summary) {
	c.packets.Truncate(s.size)
	c.index.Truncate(headerLen + s.entries*entryLen)
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
