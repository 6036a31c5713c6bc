//go:build faults

package faults

import (
	"testing"
	"time"

	"poip/internal/poiptest"
)

// TestClocksAreWrong: packets bear times of a year ago, of next year and of two
// hours back, and the relay is killed in between: only numbers count.
func TestClocksAreWrong(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		s.start()
		const day = 24 * time.Hour
		for _, offset := range []time.Duration{0, 400 * day, -400 * day, -2 * time.Hour, 0} {
			s.source.offset = offset
			s.source.send(2000)
			s.relay.Kill()
			s.source.send(2000)
			s.relay.start()
			eventually(t, "the stream is live", s.relay.live)
		}
		b := s.reckon()
		b.without(t)
		s.agreeAgent(b)
	})
}

// TestSkewIsShown: a sensor whose clock is 400 days ahead is served like any
// other, and the relay says how wrong its clock is.
func TestSkewIsShown(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		s.relay.start()
		conn := s.dial("branch-7")
		const ahead = 400 * 24 * time.Hour
		conn.hello("branch-7/feed", time.Now().Add(ahead))
		conn.accepted()
		skew := func() float64 { return s.relay.metrics().Sum("poip_relay_clock_skew_seconds") }
		near := func(v float64) bool { return v < -ahead.Seconds()+300 && v > -ahead.Seconds()-300 }
		eventually(t, "the skew is shown", func() bool { return near(skew()) })
	})
}
