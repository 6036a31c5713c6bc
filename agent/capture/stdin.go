package capture

import (
	"context"
	"fmt"
	"io"
)

// Stdin reads a capture file from a stream of bytes that may be slow: standard
// input. Each packet is sent as soon as it is there. Interfaces of a pcapng file
// become streams as with File, only that one declared after the first packet
// leaves the name of the first as it is.
//
// Run returns nil at the clean end of the input, or an error that wraps
// ErrBroken.
type Stdin struct {
	R io.Reader // set before Run
	Take
}

// Run implements Source.
func (s *Stdin) Run(ctx context.Context, open func(Info) Sink) error {
	in, undo, err := interruptible(ctx, s.R)
	if err != nil {
		return err
	}
	defer undo()
	carry := feed{take: s.Take, open: open}
	err = carry.run(ctx, waiting{in, carry.flush})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return broken{fmt.Errorf("read standard input: %w", err)}
}
