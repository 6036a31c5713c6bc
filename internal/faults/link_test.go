//go:build faults

package faults

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// TestLinkCutForTenSeconds: both sides notice or not; afterwards everything is
// there, once.
func TestLinkCutForTenSeconds(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		link := poiptest.NewBranch(t)
		s := newSite(t, plan{branch: link})
		s.start()
		before := s.rest()
		stop := s.source.flow(3000) // 12 MB in ten seconds
		time.Sleep(time.Second)
		link.Cut()
		time.Sleep(10 * time.Second)
		link.Mend()
		eventually(t, "the stream is live", s.relay.live)
		time.Sleep(time.Second)
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		s.rested(before)
	})
}

// TestLinkCutForLongerThanTheSpool: an hour's worth of packets, in seconds. What
// no longer fits is the oldest, and a gap has its exact number; the newest is
// delivered, and what passes afterwards.
func TestLinkCutForLongerThanTheSpool(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		link := poiptest.NewBranch(t)
		s := newSite(t, plan{branch: link, agent: "memory = \"2MiB\"\nspool = \"16MiB\"\nspool_sync = \"batch\""})
		s.start()
		before := s.rest()
		s.source.send(2000)
		eventually(t, "the first have arrived", func() bool { return s.relay.received() == 2000 })
		link.Cut()
		eventually(t, "the relay has given the agent up", func() bool { return !s.relay.live() })
		const volume = 150_000 // packets, 62 MB: four times the spool
		s.fill(volume)
		link.Mend()
		s.fill(2000)
		b := s.reckon()
		if b.lost["spool_overflow"] == 0 || len(b.lost) != 1 || len(b.unknown) != 0 || b.vanished != 0 {
			t.Errorf("want spool_overflow and nothing else: %v", b)
		}
		s.agree(b)
		s.keptNewest(10_000)
		s.rested(before)
	})
}

// fill hands that many packets over, no faster than an agent with 2 MiB of
// memory gets them to its disk: what that does not keep up with is lost from
// memory, and is not the oldest.
func (s *site) fill(n int) {
	s.t.Helper()
	for ; n > 0; n -= 1000 {
		s.source.send(min(n, 1000)) // 400 kB
		eventually(s.t, "half of the agent's memory is free", func() bool {
			m := s.agent.metrics()
			return s.tapDrained(m.Sum("poip_agent_captured_packets_total")) && m.Sum("poip_agent_queued_bytes") < 1280<<10
		})
	}
}

// keptNewest holds that history has the newest packets, without a hole.
func (s *site) keptNewest(n uint64) {
	s.t.Helper()
	packets := s.relay.history(stream).packets
	if len(packets) == 0 {
		s.t.Fatal("history is empty")
	}
	last := packets[len(packets)-1].counter
	if last != s.source.total()-1 {
		s.t.Errorf("the newest packet in history is %d of %d", last, s.source.total())
	}
	if uint64(len(packets)) < n || packets[uint64(len(packets))-n].counter != last-n+1 {
		s.t.Errorf("of the newest %d packets some are lost", n)
	}
}

// TestHalfOpenLink: what one side sends no longer arrives, and nobody tells it.
// Both give the session up; afterwards there is one, and everything is there.
func TestHalfOpenLink(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		link := poiptest.NewBranch(t)
		s := newSite(t, plan{branch: link})
		s.start()
		before := s.rest()
		stop := s.source.flow(1000)
		for _, deaf := range []func(){
			link.Deafen,
			func() { link.Do(func() { link.Nft("add rule ip cut in iifname wan1 drop") }) },
		} {
			time.Sleep(time.Second)
			connected := s.agent.metrics().Sum("poip_agent_sessions_total")
			deaf()
			begin := time.Now()
			eventually(t, "the relay gives the session up", func() bool { return !s.relay.live() })
			if took := time.Since(begin); took > 20*time.Second { // after 15, which this machine may see late
				t.Errorf("the relay noticed after %v", took)
			}
			link.Mend()
			eventually(t, "the agent has begun another session", func() bool {
				return s.agent.metrics().Sum("poip_agent_sessions_total") > connected && s.relay.live()
			})
		}
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		s.alone()
		s.rested(before)
	})
}

// TestBadLinkOverTLS and TestBadLinkOverQUIC: 5 % of the packets are lost each
// way, others are overtaken.
func TestBadLinkOverTLS(t *testing.T)  { overBadLink(t, "tls") }
func TestBadLinkOverQUIC(t *testing.T) { overBadLink(t, "quic") }

func overBadLink(t *testing.T, scheme string) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		link, err := poiptest.NewLossyLink(poiptest.LossyConfig{RTT: 50 * time.Millisecond, Loss: 0.05, Reorder: 0.05, Seed: 6})
		if errors.Is(err, fs.ErrPermission) && !poiptest.RealRoot() && os.Geteuid() == 0 {
			t.Logf("only root may make such a link on this machine: %v", err)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { link.Close() })
		s := newSite(t, plan{scheme: scheme, address: link.DialFar.String(), listen: link.Far.String()})
		s.start()
		before := s.rest()
		stop := s.source.flow(100) // about what TCP gets across
		time.Sleep(12 * time.Second)
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		if link.Stats(poiptest.ToFar).Lost == 0 {
			t.Error("the link has lost nothing: it proves nothing")
		}
		s.rested(before)
	})
}
