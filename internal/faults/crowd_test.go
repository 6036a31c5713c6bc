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
			t.Logf("%v streams were back after %v", streams, time.Since(begin).Round(time.Millisecond))
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

// TestClonedSensor: a second agent comes with the same certificate and the same
// capture. The newer one takes the stream over, the older one is told and
// waits, the relay says that it happened; their packets do not mix.
func TestClonedSensor(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		if err := os.CopyFS(s.path("clone"), os.DirFS(s.path("branch-7"))); err != nil {
			t.Fatal(err)
		}
		private(t, s.path("clone"))
		dir := s.path("clone-source")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		source := newSource(t, dir)
		clone := s.newAgent("clone", "tls://"+thisMachine+":"+intakePort, "127.0.0.1:57082", "", source.captureTOML())

		s.start()
		s.source.send(5000)
		eventually(t, "the first is heard", func() bool { return s.relay.received() == 5000 })
		clone.start()
		source.tapped(0)
		eventually(t, "the newer takes over", func() bool { return s.relay.metrics().Sum("poip_relay_fenced_sessions_total") == 1 })
		s.agent.WaitLog("that another has its identity", func(l poiptest.LogLine) bool {
			return l["level"] == "ERROR" && strings.Contains(fmt.Sprint(l["remedy"]), "another agent")
		})
		s.source.send(5000) // to the one that has to wait
		source.send(5000)
		eventually(t, "the newer is heard", func() bool { return s.relay.received() == 10_000 })
		s.agent.Kill() // before it would come back
		source.send(1000)
		eventually(t, "the newer is heard", func() bool { return s.relay.received() == 11_000 })
		s.unmixed(5000, 6000)
	})
}

// unmixed holds that history has so many packets of one epoch, and then so many
// of another, each counted from 0.
func (s *site) unmixed(counts ...int) {
	s.t.Helper()
	packets := s.relay.history(stream).packets
	for _, n := range counts {
		for i := range min(n, len(packets)) {
			if packets[i].counter != uint64(i) {
				s.t.Fatalf("packet %d of an epoch is the source's %d", i, packets[i].counter)
			}
		}
		packets = packets[min(n, len(packets)):]
	}
	if len(packets) != 0 {
		s.t.Errorf("history has %d packets more than %d", len(packets), counts)
	}
}

// TestCaptureOverloaded: the agent is stopped while a million packets pass its
// interface. What the kernel could not keep is counted exactly.
func TestCaptureOverloaded(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "va", "vb", 1500)
		s := newSite(t, plan{})
		s.agent = s.newAgent("branch-7", "tls://"+thisMachine+":"+intakePort, agentAdmin, "", "name = \"feed\"\ninterface = \"vb\"\nfilter = \"udp\"\n")
		s.relay.start()
		s.agent.start()
		eventually(t, "the stream is live", s.relay.live)
		generator, err := poiptest.NewGenerator("va", 200)
		if err != nil {
			t.Fatal(err)
		}
		defer generator.Close()
		send := func(n uint64) {
			if _, err := generator.Send(n, 200_000); err != nil {
				t.Fatal(err)
			}
		}
		send(10_000)
		captured := func() float64 { return s.agent.metrics().Sum("poip_agent_captured_packets_total") }
		eventually(t, "the interface is captured", func() bool { return captured() == float64(generator.Sent()) })
		s.agent.Signal(stopSignal)
		send(1_000_000)
		s.agent.Signal(continueSignal)
		send(10_000)
		eventually(t, "all is counted", func() bool { return captured() == float64(generator.Sent()) })
		eventually(t, "all is delivered", func() bool { return s.agent.metrics().Sum("poip_agent_queued_packets") == 0 })
		s.overloaded(generator.Sent())
	})
}

// overloaded closes the ledger of a generator, whose lost packets nobody can
// tell the numbers of.
func (s *site) overloaded(sent uint64) {
	s.t.Helper()
	l := s.relay.history(stream)
	b := balance{lost: map[string]uint64{}, kept: uint64(len(l.packets))}
	for _, e := range l.epochs {
		for _, g := range e.Gaps {
			b.lost[g.Cause] += g.Count
		}
	}
	for i := 1; i < len(l.packets); i++ {
		if l.packets[i].counter <= l.packets[i-1].counter {
			s.t.Fatalf("packet %d comes after packet %d", l.packets[i].counter, l.packets[i-1].counter)
		}
	}
	s.t.Logf("%d sent: %v", sent, b)
	if b.kept+b.allLost() != sent || b.lost["kernel_drop"] == 0 || len(b.lost) != 1 {
		s.t.Errorf("%d were sent, want each kept or dropped by the kernel: %v", sent, b)
	}
	s.agree(b)
	s.verified()
}
