//go:build faults

package faults

import (
	"testing"
	"time"

	"poip/internal/poiptest"
)

// kills is how often each of the two dies.
const kills = 50

// TestRelayKilledAgainAndAgain: kill -9 of the relay at random moments, under
// load. What it had acknowledged is in history, the rest is sent again: nothing
// is lost, nothing comes twice.
func TestRelayKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s, dice := newSite(t, plan{}), newDice(t)
		s.start()
		before := s.rest()
		stop := s.source.flow(4000)
		late := 0
		for n := range kills {
			dice.pause(50*time.Millisecond, 700*time.Millisecond)
			s.relay.Kill()
			dice.pause(0, 100*time.Millisecond)
			s.relay.start()
			if n%2 == 0 { // the others die while the agent is on its way back
				begin := time.Now()
				eventually(t, "the agent is back", s.relay.live)
				if took := time.Since(begin); took > 5*time.Second {
					t.Logf("the agent was back after %v", took)
					late++
				}
			}
		}
		if late > 1 { // one may be a hiccup of this machine
			t.Errorf("the agent took longer than 5 s to come back %d times", late)
		}
		eventually(t, "the agent is back", s.relay.live)
		stop()
		b := s.reckon()
		b.without(t)
		if n := s.agent.metrics().Sum("poip_agent_acknowledged_packets_total"); n != float64(b.kept) {
			t.Errorf("the agent counts %v acknowledged packets, history has %d", n, b.kept)
		}
		s.rested(before)
	})
}

// TestAgentKilledAgainAndAgain: kill -9 of the agent at random moments, under
// load. Each death is on the record with its bounds in time; what is nowhere
// was handed over within these; nothing comes twice.
func TestAgentKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s, dice := newSite(t, plan{}), newDice(t)
		s.start()
		before := s.rest()
		stop := s.source.flow(4000)
		for n := range kills {
			dice.pause(100*time.Millisecond, 700*time.Millisecond)
			s.agent.Kill()
			taps := s.source.tapCount()
			s.agent.start()
			if n%3 != 2 { // every third dies before it may have said a word
				s.source.tapped(taps)
			}
		}
		stop()
		b := s.reckon()
		if b.allLost() != 0 {
			t.Errorf("packets are counted as lost that were not: %v", b)
		}
		// Where a relay acknowledges, next to nothing is in memory only.
		if most := uint64(kills * 4000 / 4); b.vanished > most {
			t.Errorf("of each death a quarter of a second may be lost, which is %d packets: %v", most, b)
		}
		if b.unknown["agent_crash"] == 0 || len(b.unknown) != 1 {
			t.Errorf("the record of %d deaths: %v", kills, b)
		}
		m := s.relay.metrics()
		if n := m.Sum("poip_relay_received_packets_total"); n != float64(b.kept) {
			t.Errorf("the relay counts %v packets, history has %d", n, b.kept)
		}
		if n := m.Sum("poip_relay_lost_unknown_total", `cause="agent_crash"`); n != float64(b.unknown["agent_crash"]) {
			t.Errorf("the relay counts %v deaths, history has %d", n, b.unknown["agent_crash"])
		}
		s.rested(before)
	})
}

// TestRelayStopped: a relay that does nothing for longer than a peer's
// patience, and then goes on as if nothing had been.
func TestRelayStopped(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		s.start()
		before := s.rest()
		stop := s.source.flow(2000)
		time.Sleep(time.Second)
		s.relay.pause(time.Minute)
		eventually(t, "the stream is live", s.relay.live)
		time.Sleep(time.Second)
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		s.alone()
		s.rested(before)
	})
}
