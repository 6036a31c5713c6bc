package transport

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// socket is full, and takes more only when all of its queue has gone.
type socket struct {
	queue, rate int // bytes; bytes a second
	since       time.Time
	deadline    time.Time
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.deadline = t
	return nil
}

func (s *socket) queued() int {
	return max(0, s.queue-s.rate*int(time.Since(s.since)/time.Second))
}

func (s *socket) Write(p []byte) (int, error) {
	for s.queued() > 0 {
		if time.Sleep(time.Second); !time.Now().Before(s.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
	}
	return len(p), nil
}

// What leaves the socket's queue is progress, although the socket takes no more
// for a long time: as many seconds as the queue has bytes, here.
func TestWhatLeavesTheQueueIsProgress(t *testing.T) {
	for _, c := range []struct{ rate, want int }{{1, 100}, {0, 15}} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			s := &socket{queue: 100, rate: c.rate, since: begin}
			p := patience{out: s, queued: s.queued}
			p.set(15 * time.Second)
			n, err := p.write(make([]byte, 10))
			if took := int(time.Since(begin) / time.Second); took != c.want {
				t.Errorf("at %d B/s it took %d s, want %d", c.rate, took, c.want)
			}
			if dead := c.rate == 0; dead != errors.Is(err, os.ErrDeadlineExceeded) || !dead && n != 10 {
				t.Errorf("at %d B/s %d bytes were written: %v", c.rate, n, err)
			}
		})
	}
}
