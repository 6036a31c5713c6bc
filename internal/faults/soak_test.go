//go:build faults

package faults

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// A mishap is something that goes wrong for a while.
type mishap struct {
	name string
	run  func(*soak)
}

// A soak is a site to which mishaps happen, one after another.
type soak struct {
	*site
	dice dice
	link *poiptest.Branch
	died int // agents
}

var mishaps = []mishap{
	{"the relay is killed", func(s *soak) {
		s.relay.Kill()
		s.dice.pause(0, 5*time.Second)
		s.relay.start()
	}},
	{"the agent is killed", func(s *soak) {
		s.agent.Kill()
		s.dice.pause(0, 3*time.Second)
		s.agent.start()
		s.died++
	}},
	{"the link is cut", func(s *soak) {
		s.link.Cut()
		s.dice.pause(0, 40*time.Second)
		s.link.Mend()
	}},
	{"the relay hears nothing", func(s *soak) {
		s.link.Deafen()
		s.dice.pause(0, 40*time.Second)
		s.link.Mend()
	}},
	{"the relay is stopped", func(s *soak) { s.relay.pause(s.dice.between(0, 30*time.Second)) }},
	{"the agent is stopped", func(s *soak) {
		s.agent.Signal(stopSignal)
		s.dice.pause(0, 30*time.Second)
		s.agent.Signal(continueSignal)
	}},
	{"the link loses every twentieth packet", func(s *soak) {
		const drop = "numgen random mod 100 < 5 drop"
		s.link.Nft("add rule ip cut in iifname wan0 " + drop)
		s.link.Do(func() { s.link.Nft("add rule ip cut in iifname wan1 " + drop) })
		s.dice.pause(0, 20*time.Second)
		s.link.Mend()
	}},
	{"an analyst reads nothing", func(s *soak) {
		stopped := connect(s.t, livePort)
		s.dice.pause(0, 30*time.Second)
		stopped.read()
		eventually(s.t, "it reads on", func() bool { return stopped.count() > 0 })
		stopped.close()
		if stopped.wrong != nil {
			s.t.Error(stopped.wrong)
		}
	}},
	{"the relay reads its configuration again", func(s *soak) { s.relay.Signal(syscall.SIGHUP) }},
	{"analysts come and are gone", func(s *soak) {
		for range 50 {
			glance(livePort) // however it ends
		}
	}},
	{"nothing", func(s *soak) { s.dice.pause(0, 5*time.Second) }},
}

// TestSoak throws a random mix of mishaps at the two programs, for SOAK (an
// hour), in cycles of ten. After each the ledger is closed. SEED throws the
// same mix again.
func TestSoak(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		length := time.Hour
		if text := os.Getenv("SOAK"); text != "" {
			var err error
			if length, err = time.ParseDuration(text); err != nil {
				t.Fatalf("SOAK=%q: want a duration, as in 8h", text)
			}
		}
		dice, link := newDice(t), poiptest.NewBranch(t)
		for cycle, begin := 1, time.Now(); time.Since(begin) < length && !t.Failed(); cycle++ {
			t.Run(fmt.Sprint(cycle), func(t *testing.T) {
				s := &soak{dice: dice, link: link}
				s.tell("cycle %d", cycle)
				s.cycle(t)
			})
		}
	})
}

// tell writes to the file that SOAK_LOG names, for those who watch.
func (s *soak) tell(format string, args ...any) {
	out, err := os.OpenFile(os.Getenv("SOAK_LOG"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return // nobody does
	}
	defer out.Close()
	fmt.Fprintf(out, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// cycle is ten mishaps, under load, and the ledger.
func (s *soak) cycle(t *testing.T) {
	scheme := []string{"tls", "quic"}[s.dice.IntN(2)]
	s.site = newSite(t, plan{branch: s.link, scheme: scheme})
	s.start()
	before := s.rest()
	stop := s.source.flow(500 + s.dice.IntN(4000))
	for range 10 {
		s.dice.pause(0, 3*time.Second)
		m := mishaps[s.dice.IntN(len(mishaps))]
		s.tell("%s (%s)", m.name, scheme)
		m.run(s)
	}
	eventually(t, "the stream is live", s.relay.live)
	stop()
	b := s.reckon()
	if b.allLost() != 0 || b.trimmed != 0 || s.died == 0 && (b.vanished != 0 || len(b.unknown) != 0) {
		t.Errorf("with %d deaths of the agent: %v", s.died, b)
	}
	s.rested(before)
	s.tell("%v; the relay has %d MiB", b, s.relay.memory("VmRSS")>>20)
	s.agent.Stop()
	s.relay.Stop()
}
