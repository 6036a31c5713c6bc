package agent

import (
	"context"
	"fmt"
)

// A preparer is a Source that needs privileges, and can do beforehand what it
// needs them for.
type preparer interface{ Prepare(context.Context) error }

// prepare does what needs privileges, for all captures. Then it tells whoever
// wants to give these up, before any packet or any peer is listened to.
func (a *Agent) prepare(ctx context.Context, captures []*capturing) error {
	for _, c := range captures {
		p, ok := c.source.(preparer)
		if !ok {
			continue
		}
		if err := p.Prepare(ctx); err != nil {
			return fmt.Errorf("capture %s: %w", c.config.Name, err)
		}
	}
	if a.Prepared == nil {
		return nil
	}
	return a.Prepared()
}
