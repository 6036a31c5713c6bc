package capture

import (
	"context"
	"io"
	"time"
)

// longAgo is a deadline that ends a Read at once.
var longAgo = time.Unix(1, 0)

// interruptible returns an input whose Read does not go on waiting when ctx has
// ended, and a function to be called when it has been read.
func interruptible(ctx context.Context, in io.Reader) (_ io.Reader, undo func(), err error) {
	type deadliner interface{ SetReadDeadline(time.Time) error }
	if d, ok := in.(deadliner); ok && d.SetReadDeadline(time.Time{}) == nil {
		stop := context.AfterFunc(ctx, func() { _ = d.SetReadDeadline(longAgo) })
		return in, func() { stop() }, nil
	}
	// Standard input mostly knows no deadlines: it is shared with other
	// processes, which want to find it blocking.
	if polled, undo, err := pollable(ctx, in); polled != nil || err != nil {
		return polled, undo, err
	}
	stop := func() bool { return true }
	if c, ok := in.(io.Closer); ok {
		stop = context.AfterFunc(ctx, func() { _ = c.Close() })
	}
	return in, func() { stop() }, nil
}
