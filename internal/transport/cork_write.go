package transport

// Write sends, gathers or queues p, by the mode. It takes all of p or fails for good.
func (c *Cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.mode == through && c.buf == nil {
		n, err := c.send(p)
		c.err = err
		return n, err
	}
	if err := c.put(p); err != nil {
		c.err = err
		return 0, err
	}
	return len(p), nil
}

// put appends p to the buffer and sends where the mode asks for it.
func (c *Cork) put(p []byte) error {
	if c.buf != nil && len(*c.buf)+len(p) > cap(*c.buf) {
		if err := c.spill(); err != nil {
			return err
		}
	}
	if c.buf == nil {
		c.buf = takeBuffer(c.size + recordSlack)
	}
	if len(*c.buf)+len(p) > cap(*c.buf) {
		return errFull
	}
	*c.buf = append(*c.buf, p...)
	if c.mode == through || len(*c.buf)-c.sent >= c.size {
		return c.spill()
	}
	return nil
}

// spill makes room: all of it, or in non-blocking mode what the socket takes.
func (c *Cork) spill() error {
	if c.mode != never {
		return c.flush()
	}
	_, err := c.tryFlush()
	return err
}

// Flush sends what is gathered, and waits for that until the write deadline
// or for as long as the patience lasts.
func (c *Cork) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = c.flush()
	}
	return c.err
}

func (c *Cork) flush() error {
	if c.buf == nil {
		return nil
	}
	_, err := c.send((*c.buf)[c.sent:])
	c.releaseBuffer()
	return err
}

// Pending is how many bytes are gathered and not yet with the socket.
func (c *Cork) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		return 0
	}
	return len(*c.buf) - c.sent
}

// TryFlush sends what the socket takes now, and says whether that was all.
func (c *Cork) TryFlush() (done bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return false, c.err
	}
	done, c.err = c.tryFlush()
	return done, c.err
}

func (c *Cork) tryFlush() (bool, error) {
	if c.buf == nil {
		return true, nil
	}
	n, err := c.tryOnce((*c.buf)[c.sent:])
	c.sent += n
	if c.sent == len(*c.buf) {
		c.releaseBuffer()
		return true, err
	}
	return false, err
}

// TryWrite writes what the socket takes of p now, which may be nothing. It
// is for connections without TLS; nothing may be Pending.
func (c *Cork) TryWrite(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.tryOnce(p)
	c.err = err
	return n, err
}

func (c *Cork) tryOnce(p []byte) (int, error) {
	if c.raw == nil {
		return c.conn.Write(p)
	}
	c.try, c.tried, c.tryErr = p, 0, nil
	err := c.raw.Write(c.writable)
	c.try = nil
	if err == nil && c.tryErr != nil {
		err = c.opError("write", c.tryErr)
	}
	return c.tried, err
}

// tryWrite is what RawConn calls. It asks once and never to be called again.
func (c *Cork) tryWrite(fd uintptr) bool {
	c.tried, c.tryErr = writeFD(fd, c.try)
	return true
}

// WaitWritable returns when the socket takes bytes again, or with an error at
// the write deadline. It returns as well when the peer has gone; the next
// write tells.
func (c *Cork) WaitWritable() error {
	if c.raw == nil {
		return nil
	}
	return c.raw.Write(c.ready)
}
