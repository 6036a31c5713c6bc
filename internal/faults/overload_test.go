//go:build faults

package faults

import (
	"testing"

	"poip/internal/poiptest"
)

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
