//go:build !race

package transport_test

import (
	"io"
	"testing"
	"time"

	"poip/internal/transport"
)

// The race detector makes sync.Pool drop at random what it is given, so this
// holds without it only.
func TestCorkAllocatesNothing(t *testing.T) {
	a, b := tcpPair(t)
	out, in := transport.NewCork(a, 64<<10), transport.NewCork(b, 64<<10)
	must(t, out.SetWritePatience(20*time.Second))
	p, q := noise(1000), make([]byte, 1000)
	for what, f := range map[string]func(){
		"TryWrite and Read": func() {
			n, err := out.TryWrite(p)
			must(t, err)
			_, err = io.ReadFull(in, q[:n])
			must(t, err)
		},
		"Write, Flush and Read": func() {
			out.Gather(true)
			_, err := out.Write(p)
			must(t, err)
			must(t, out.Flush())
			_, err = io.ReadFull(in, q)
			must(t, err)
		},
		"Write, TryFlush, WaitWritable and Read": func() {
			out.SetNonblocking(true)
			_, err := out.Write(p)
			must(t, err)
			done, err := out.TryFlush()
			must(t, err)
			must(t, out.WaitWritable())
			if done {
				_, err = io.ReadFull(in, q)
			}
			must(t, err)
		},
	} {
		if n := testing.AllocsPerRun(200, f); n >= 1 {
			t.Errorf("%s: %.1f allocations", what, n)
		}
	}
}
