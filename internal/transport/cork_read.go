package transport

import "io"

// Read reads ahead of the caller.
func (c *Cork) Read(p []byte) (int, error) {
	if c.raw == nil {
		c.tell()
		n, err := c.conn.Read(p)
		c.arrived += uint64(n)
		return n, err
	}
	if c.begin == c.end {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.ahead[c.begin:c.end])
	c.begin += n
	if c.begin == c.end {
		c.releaseAhead()
	}
	return n, nil
}

// fill asks the socket first and waits second, so it knows when it waits. It
// tells so while it holds on to nothing: whoever closes the connection waits
// for a RawConn to be let go.
func (c *Cork) fill() error {
	for c.patient = false; ; c.patient = true {
		if err := c.raw.Read(c.readable); err != nil {
			return err
		}
		if !c.again {
			break
		}
		c.tell()
	}
	if c.readErr != nil && c.readErr != io.EOF {
		return c.opError("read", c.readErr)
	}
	return c.readErr
}

// tryRead is what RawConn calls: at once, and whenever bytes arrive if it
// returned false. It keeps no buffer while it waits.
func (c *Cork) tryRead(fd uintptr) bool {
	if c.ahead == nil {
		c.ahead = aheads.Get().(*[readAhead]byte)
	}
	c.begin = 0
	c.end, c.again, c.readErr = readFD(fd, c.ahead[:])
	c.arrived += uint64(c.end)
	if c.end == 0 {
		c.releaseAhead()
	}
	return !(c.again && c.patient)
}

func (c *Cork) tell() {
	if c.beforeWait != nil && !c.quiet.Load() {
		c.beforeWait()
	}
}
