//go:build faults

package faults

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"poip/internal/poiptest"
)

// TestSpoolDiskFull: the disk under the spool is smaller than the spool may be,
// and the relay is away. The agent goes on capturing, and the oldest makes way
// and is counted; when the relay is back, so is everything else. It fails
// without makeWay in spool.go.
func TestSpoolDiskFull(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{agent: "memory = \"2MiB\"\nspool = \"64MiB\"\nspool_sync = \"batch\""})
		poiptest.MountTmpfs(t, s.path("branch-7", "spool"), 24<<20)
		s.start()
		before := s.rest()
		s.source.send(1000)
		eventually(t, "the first have arrived", func() bool { return s.relay.received() == 1000 })
		s.relay.Kill()
		s.fill(150_000) // 62 MB
		s.relay.start()
		eventually(t, "the stream is live", s.relay.live)
		s.fill(1000)
		b := s.reckon()
		if b.lost["spool_overflow"] == 0 || len(b.lost) != 1 || len(b.unknown) != 0 || b.vanished != 0 {
			t.Errorf("want spool_overflow and nothing else: %v", b)
		}
		s.agreeAgent(b)
		s.keptNewest(10_000)
		s.rested(before)
	})
}

// TestHistoryDiskFullHolds: the relay does not acknowledge what it cannot write.
// For one window of the agent's its analysts get it all the same; then they wait
// as well, until there is room again, and miss nothing.
func TestHistoryDiskFullHolds(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{stream: `history_full = "hold"`})
		poiptest.MountTmpfs(t, s.path("relay", "history"), 160<<20)
		ballast := s.ballast("relay/history/ballast", 144<<20)
		s.start()
		before := s.rest()
		analyst := follow(t, livePort)
		stop := s.source.flow(8000) // 3 MB/s
		acknowledged := func() float64 { return s.agent.metrics().Sum("poip_agent_acknowledged_packets_total") }
		eventually(t, "acknowledgments stop, and packets go on to come", func() bool {
			was, received := acknowledged(), s.relay.received()
			time.Sleep(3 * time.Second)
			return was > 0 && acknowledged() == was && received > was && float64(s.source.total()) > received
		})
		eventually(t, "the analyst has what the relay has received", func() bool { return float64(analyst.count()) >= s.relay.received() })
		const window = 16 << 20 // of each stream; the default
		var took float64
		eventually(t, "nothing more is taken than a window", func() bool {
			was := s.relay.received()
			took = s.relay.metrics().Sum("poip_relay_history_pending_bytes")
			time.Sleep(3 * time.Second)
			return s.relay.received() == was && float64(s.source.total()) > was
		})
		if took < window*3/4 || took > 2*window {
			t.Errorf("%v bytes wait for the disk, want a window of %d", took, window)
		}
		eventually(t, "the analyst has that", func() bool { return float64(analyst.count()) == s.relay.received() })
		waited := analyst.count()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the analyst gets more", func() bool { return analyst.count() > waited })
		eventually(t, "acknowledgments go on", func() bool { was := acknowledged(); time.Sleep(time.Second); return acknowledged() > was })
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		analyst.close()
		s.rested(before)
	})
}

// TestHistoryDiskFullDropsOldest: history lasts for as long as the disk lets it,
// in many segments or all in one.
func TestHistoryDiskFullDropsOldest(t *testing.T) {
	t.Parallel()
	for _, size := range []string{"64MiB", "1GiB"} {
		t.Run(size, func(t *testing.T) {
			t.Parallel()
			poiptest.RunInNetns(t, func() { dropsOldest(t, size) })
		})
	}
}

func dropsOldest(t *testing.T, size string) {
	s := newSite(t, plan{history: size, stream: `history_full = "drop_oldest"`})
	poiptest.MountTmpfs(t, s.path("relay", "history"), 24<<20)
	s.start()
	before := s.rest()
	s.source.trickle(150_000) // 62 MB
	b := s.reckon()
	b.unlost(t)
	if b.trimmed == 0 || b.kept < 5000 {
		t.Errorf("want the newest kept and the oldest deleted: %v", b)
	}
	if n := s.agent.metrics().Sum("poip_agent_acknowledged_packets_total"); n != float64(s.source.total()) {
		t.Errorf("%v of %d packets are acknowledged", n, s.source.total())
	}
	s.rested(before)
}

// ballast fills a disk up.
func (s *site) ballast(name string, size int) string {
	s.t.Helper()
	return s.write(name, string(bytes.Repeat([]byte{1}, size)))
}

// failing is a program that has some calls of fsync fail, from the n-th on every
// step-th.
func failing(n, step int) []string {
	return []string{"strace", "-f", "-D", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", "trace=fsync,fdatasync",
		"-e", fmt.Sprintf("inject=fsync,fdatasync:error=EIO:when=%d+%d", n, step)}
}

// TestRelayFsyncFails: a disk that says it could not write. What was not
// confirmed is written again elsewhere, and acknowledged then.
func TestRelayFsyncFails(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{relayAs: failing(30, 20)})
		s.start()
		s.endureFsync(s.relay.Process)
	})
}

// TestAgentFsyncFails: the same under the spool.
func TestAgentFsyncFails(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{agent: "spool_sync = \"batch\"", agentAs: failing(30, 20)})
		s.start()
		s.endureFsync(s.agent.Process)
	})
}

func (s *site) endureFsync(p *poiptest.Process) {
	stop := s.source.flow(3000)
	time.Sleep(8 * time.Second)
	stop()
	b := s.reckon()
	b.without(s.t)
	s.agree(b)
	if !strings.Contains(p.Log(), "input/output error") {
		s.t.Error("the log says nothing of an error: no fsync failed, or nobody heard of it")
	}
}
