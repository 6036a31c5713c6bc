package transport

import "sync"

// Buffers are kept for reuse: of reading ahead, and of the two common sizes
// of gathering.
var (
	aheads       = sync.Pool{New: func() any { return new([readAhead]byte) }}
	smallBuffers = sync.Pool{New: func() any { return newBuffer(64<<10 + recordSlack) }}
	largeBuffers = sync.Pool{New: func() any { return newBuffer(GatherSize + recordSlack) }}
)

func (c *Cork) releaseAhead() {
	aheads.Put(c.ahead)
	c.ahead, c.begin, c.end = nil, 0, 0
}

func newBuffer(n int) *[]byte {
	b := make([]byte, 0, n)
	return &b
}

func takeBuffer(n int) *[]byte {
	switch {
	case n <= 64<<10+recordSlack:
		return smallBuffers.Get().(*[]byte)
	case n <= GatherSize+recordSlack:
		return largeBuffers.Get().(*[]byte)
	}
	return newBuffer(n)
}

func (c *Cork) releaseBuffer() {
	*c.buf = (*c.buf)[:0]
	switch cap(*c.buf) {
	case 64<<10 + recordSlack:
		smallBuffers.Put(c.buf)
	case GatherSize + recordSlack:
		largeBuffers.Put(c.buf)
	}
	c.buf, c.sent = nil, 0
}
