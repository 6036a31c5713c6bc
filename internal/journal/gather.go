package journal

import (
	"fmt"
	"time"
)

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
		e.put(c.entries[i*entryLen:], s.seed)
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
