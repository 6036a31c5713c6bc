//go:build faults

package faults

import (
	"fmt"
	"os"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// settle waits until the agent has delivered everything that it will: nothing
// is queued, and everything handed over to this process of it is captured.
func (s *site) settle() {
	s.t.Helper()
	var last string
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		m := s.agent.metrics()
		captured, queued := m.Sum("poip_agent_captured_packets_total"), m.Sum("poip_agent_queued_packets")
		acknowledged, lost := m.Sum("poip_agent_acknowledged_packets_total"), m.Sum("poip_agent_lost_packets_total")
		if m != "" && s.tapDrained(captured) && queued == 0 && captured == acknowledged+lost {
			return
		}
		last = fmt.Sprintf("captured %v of %v, acknowledged %v, lost %v, queued %v", captured, s.source.total(), acknowledged, lost, queued)
		if time.Now().After(end) {
			s.t.Fatalf("the agent does not settle: %s", last)
		}
	}
}

// tapDrained says whether the agent has read all that its tap was given. Of an
// agent that was killed nobody knows; there, a mark of silence has to do.
func (s *site) tapDrained(captured float64) bool {
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	if s.source.taps > 1 {
		return len(s.source.chunks) == 0 || time.Since(s.source.chunks[len(s.source.chunks)-1].at.Add(-s.source.offset)) > 2*time.Second
	}
	return captured == float64(s.source.sent)
}

// agree holds what both programs count against the ledger. Only for a site in
// which neither was started anew.
func (s *site) agree(b balance) {
	s.t.Helper()
	s.agreeAgent(b)
	m := s.relay.metrics()
	s.same(m, b.kept, "poip_relay_received_packets_total")
	s.same(m, b.allLost(), "poip_relay_lost_packets_total")
	for cause, n := range b.lost {
		s.same(m, n, "poip_relay_lost_packets_total", fmt.Sprintf("cause=%q", cause))
	}
}

// agreeAgent does so for the agent, where it is the relay that was started
// anew.
func (s *site) agreeAgent(b balance) {
	s.t.Helper()
	m, status := s.agent.metrics(), s.agent.status()
	if got := status.acknowledged(); got != b.kept {
		s.t.Errorf("poip-agent status says that %d are acknowledged, want %d by the ledger", got, b.kept)
	}
	s.same(m, b.kept, "poip_agent_acknowledged_packets_total")
	s.same(m, b.kept+b.allLost(), "poip_agent_captured_packets_total")
	s.same(m, b.allLost(), "poip_agent_lost_packets_total")
	for cause, n := range b.lost {
		s.same(m, n, "poip_agent_lost_packets_total", fmt.Sprintf("cause=%q", cause))
	}
}

func (s *site) same(m poiptest.Metrics, want uint64, metric string, labels ...string) {
	s.t.Helper()
	if got := m.Sum(metric, labels...); got != float64(want) {
		s.t.Errorf("%s%q is %v, want %d by the ledger", metric, labels, got, want)
	}
}

// verified has the relay's own command check its history.
func (s *site) verified() {
	s.t.Helper()
	s.must("poip-relay", "history", "verify", "--config", s.relay.config)
}

// reckon settles, closes the ledger and has history verified.
func (s *site) reckon() balance {
	s.t.Helper()
	s.settle()
	b := s.relay.history(stream).close(s.t, s.source)
	s.verified()
	return b
}

// unlost fails when anything is lost.
func (b balance) unlost(t *testing.T) {
	t.Helper()
	if b.allLost() != 0 || len(b.unknown) != 0 || b.vanished != 0 {
		t.Errorf("want nothing lost: %v", b)
	}
}

// without fails when anything is lost, or deleted for lack of room.
func (b balance) without(t *testing.T) {
	t.Helper()
	b.unlost(t)
	if b.trimmed != 0 {
		t.Errorf("want everything in history: %v", b)
	}
}

// A footprint is what a process holds.
type footprint struct{ goroutines, descriptors float64 }

func footprintOf(m poiptest.Metrics, p *poiptest.Process) footprint {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Cmd.Process.Pid))
	return footprint{m.Sum("go_goroutines"), float64(len(entries))}
}

// A rest is what both programs hold when nothing is wrong.
type rest struct{ relay, agent footprint }

func (s *site) rest() rest {
	return rest{footprintOf(s.relay.metrics(), s.relay.Process), footprintOf(s.agent.metrics(), s.agent.Process)}
}

// rested waits until both hold what they held before, or little more.
func (s *site) rested(before rest) {
	s.t.Helper()
	const slack = 10
	var now rest
	back := func(now, before footprint) bool {
		return now.goroutines > 0 && now.goroutines <= before.goroutines+slack && now.descriptors <= before.descriptors+slack
	}
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		if now = s.rest(); back(now.relay, before.relay) && back(now.agent, before.agent) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("goroutines and descriptors are %+v, and were %+v", now, before)
		}
	}
}

// alone holds that the relay has one connection at its intake, and no other that
// somebody has forgotten.
func (s *site) alone() {
	s.t.Helper()
	eventually(s.t, "the relay has one session", func() bool { return s.relay.sessions() == 1 })
}
