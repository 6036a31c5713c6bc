//go:build faults

package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"poip/internal/poiptest"
)

// TestClonedSensor: a second agent comes with the same certificate and the same
// capture. The newer one takes the stream over, the older one is told and
// waits, the relay says that it happened; their packets do not mix. It fails
// without fence in broker/register.go.
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
