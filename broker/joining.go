package broker

import (
	"context"

	"poip/internal/transport"
)

// enroll hands over who asks for a first certificate at the intake, and comes
// without one. What follows has nothing to do with streams.
func (b *Broker) enroll(ctx context.Context, conn transport.Conn) {
	if b.opts.Enroll == nil {
		conn.Abort()
		return
	}
	b.opts.Enroll(ctx, conn)
}
