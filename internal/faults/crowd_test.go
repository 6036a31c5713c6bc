//go:build faults

package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// A crowd is many agents of several captures each, at one relay.
type crowd struct {
	*site
	agents  []*agent
	sources map[string]*source // by stream
}

func newCrowd(t *testing.T, agents, captures int) *crowd {
	t.Helper()
	c := &crowd{site: newSite(t, plan{}), sources: map[string]*source{}}
	for a := range agents {
		sensor := fmt.Sprintf("sensor-%d", a)
		c.must("poip-relay", "issue", sensor, "--data", c.path("relay"), "--out", c.path(sensor))
		var feeds []string
		for n := range captures {
			name := fmt.Sprintf("c%d", n)
			dir := c.path(fmt.Sprintf("%s-%s", sensor, name))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			source := newSource(t, dir)
			c.sources[sensor+"/"+name] = source
			feeds = append(feeds, strings.Replace(source.captureTOML(), `"feed"`, fmt.Sprintf("%q", name), 1))
		}
		admin := fmt.Sprintf("127.0.0.1:%d", 57200+a)
		c.agents = append(c.agents, c.newAgent(sensor, "tls://"+thisMachine+":"+intakePort, admin, `memory = "4MiB"`, feeds...))
	}
	return c
}

// TestStampede: the relay is killed, and all streams of many agents return at
// once.
func TestStampede(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		c := newCrowd(t, 12, 4)
		streams := float64(len(c.sources))
		c.relay.start()
		for _, a := range c.agents {
			a.start()
		}
		for _, source := range c.sources {
			source.tapped(0)
		}
		allLive := func() bool { return c.relay.metrics().Sum("poip_relay_stream_live") == streams }
		eventually(t, "all are there", allLive)
		var stops []func()
		for _, source := range c.sources {
			stops = append(stops, source.flow(50))
		}
		for range 2 {
			time.Sleep(2 * time.Second)
			c.relay.Kill()
			time.Sleep(3 * time.Second)
			c.relay.start()
			begin := time.Now()
			eventually(t, "all are back", allLive)
			took := time.Since(begin).Round(time.Millisecond)
			t.Logf("%v streams were back after %v", streams, took)
			if took > 15*time.Second {
				t.Errorf("that is longer than 15 s")
			}
		}
		for _, stop := range stops {
			stop()
		}
		eventually(t, "all is delivered", c.delivered)
		for name, source := range c.sources {
			c.relay.history(name).close(t, source).without(t)
		}
		c.verified()
	})
}

// delivered says whether every agent has captured and delivered everything.
func (c *crowd) delivered() bool {
	var captured, acknowledged float64
	for _, a := range c.agents {
		m := a.metrics()
		captured += m.Sum("poip_agent_captured_packets_total")
		acknowledged += m.Sum("poip_agent_acknowledged_packets_total")
	}
	var sent uint64
	for _, source := range c.sources {
		sent += source.total()
	}
	return captured == float64(sent) && acknowledged == captured
}
