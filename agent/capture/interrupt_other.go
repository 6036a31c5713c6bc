//go:build !unix

package capture

import (
	"context"
	"io"
)

// pollable is for systems that have poll. Elsewhere a Read of standard input
// that waits ends when the input does.
func pollable(context.Context, io.Reader) (io.Reader, func(), error) { return nil, nil, nil }
