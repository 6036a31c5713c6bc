package agent

import (
	"context"
	"strings"
	"testing"

	"poip/agent/capture"
	"poip/internal/poiptest"
)

// Whoever asks is told that a capture waits for as long as its interface is down
// or gone. Fails when it counts as running because it once ran.
func TestACaptureWithoutItsInterfaceWaits(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		relay := newFakeRelay(t)
		a := testAgent(t, relay, map[string]capture.Source{"eth0": nil})
		a.config.Captures[0].Interface = "vB"
		a.Source = a.source
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		is := func(want CaptureState, metric string) {
			t.Helper()
			poiptest.WaitUntil(t, "the capture to be "+string(want), func() bool {
				c, page := a.Captures(), get(a, "localhost", "/metrics").Body.String()
				return len(c) == 1 && c[0].State == want && strings.Contains(page, `poip_agent_capture_running{capture="eth0"} `+metric+"\n")
			})
		}
		change := func(lines ...string) {
			t.Helper()
			if err := poiptest.IP(lines...); err != nil {
				t.Fatal(err)
			}
		}
		is(CaptureWaiting, "0")
		for range 2 {
			poiptest.Veth(t, "vA", "vB", 1500)
			is(CaptureRunning, "1")
			change("link set vB down")
			is(CaptureWaiting, "0")
			change("link set vB up")
			is(CaptureRunning, "1")
			change("link del vA")
			is(CaptureWaiting, "0")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		relay.wait()
	})
}
