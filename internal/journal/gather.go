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
		n, err := c.appendSome(items[:c.fit(items)])
		if err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// appendSome writes items to the tail: all, or as many as a full disk has room
// for. What did not fit is not left there.
func (c *committer) appendSome(items []item) (n int, err error) {
	for n = len(items); ; n /= 2 {
		if err = c.append(items[:n]); !IsFull(err) {
			return n, err
		}
		if c.cut(&c.j.tail.sum); n == 1 {
			return 0, err
		}
	}
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
	if s.length()+more+2*entryLen+c.sizeOf(it) > c.j.o.Segment {
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
		bytes += c.sizeOf(it) + entryLen
	}
	return len(items)
}

// sizeOf is how many bytes of records an item has on the disk.
func (c *committer) sizeOf(it *item) int64 {
	e := c.cipher.stored(it.entry)
	return int64(e.length)
}

// append writes items to the tail.
func (c *committer) append(items []item) error {
	j, s := c.j, c.j.tail
	offset := s.sum.size
	c.entries, c.stored = c.entries[:0], c.stored[:0]
	for i := range items {
		e := c.cipher.stored(items[i].entry)
		e.offset = uint32(offset)
		offset += int64(e.length)
		if e.flags &^= flagConfirmed; i == 0 && c.flag {
			e.flags |= flagConfirmed
		}
		c.stored = append(c.stored, e)
		c.entries = append(c.entries, make([]byte, entryLen)...)
		e.put(c.entries[i*entryLen:], s.seed)
	}
	if err := c.writePackets(items, s.sum.size); err != nil {
		return fmt.Errorf("write packets: %w", err)
	}
	if _, err := c.index.WriteAt(c.entries, headerLen+s.sum.entries*entryLen); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	c.flag = false
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range items {
		s.sum.add(&c.stored[i])
		j.written = items[i].place(j.written)
	}
	return nil
}

// writePackets writes the records of items, from an offset on. The backlog keeps
// what it has: it may have to be written again elsewhere.
func (c *committer) writePackets(items []item, at int64) error {
	last := &c.stored[len(items)-1]
	c.stage.open(c.packets, at, last.end()-at)
	defer func() { clear(c.pieces) }()
	for len(items) > 0 {
		n := 1
		end := items[0].at + int64(items[0].entry.length)
		for ; c.cipher == nil && n < len(items) && items[n].at == end; n++ {
			end += int64(items[n].entry.length)
		}
		pieces := c.memory(items[0].at, end)
		if c.cipher != nil && items[0].entry.kind == Batch {
			c.sealed = c.cipher.seal(c.sealed[:0], &items[0].entry, pieces)
			pieces = append(pieces[:0], c.sealed)
		}
		for _, piece := range pieces {
			if err := c.stage.add(piece); err != nil {
				return err
			}
		}
		items = items[n:]
	}
	return c.stage.flush()
}

// memory is where the backlog has some bytes.
func (c *committer) memory(from, to int64) [][]byte {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.pieces = c.j.backlog.bytes(c.pieces[:0], from, to)
	return c.pieces
}

// rest gives memory back.
func (c *committer) rest() {
	c.sealed, c.pieces, c.stage = nil, nil, stage{}
	c.cipher.rest()
}
