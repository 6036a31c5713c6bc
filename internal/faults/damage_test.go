//go:build faults

package faults

import (
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// spooled has an agent without a relay put n packets into its spool, and kills
// it. The relay does not run yet.
func (s *site) spooled(n int) {
	s.t.Helper()
	s.agent.start()
	s.source.tapped(0)
	s.source.trickle(n)
	eventually(s.t, "the agent has captured all", func() bool {
		return s.agent.metrics().Sum("poip_agent_captured_packets_total") == float64(n)
	})
	var bytes int64
	for counter := range uint64(n) {
		bytes += int64(pcap.RecordHeaderLen + frameLen(counter))
	}
	eventually(s.t, "all is in the spool", func() bool {
		var size int64
		for _, path := range s.segments() {
			size += fileSize(path)
		}
		return size >= bytes
	})
	s.agent.Kill()
}

// segments are the capture files of the spool, oldest first.
func (s *site) segments() (paths []string) {
	filepath.WalkDir(s.path("branch-7", "spool"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".pcap" && filepath.Base(filepath.Dir(path)) != "quarantine" {
			paths = append(paths, path)
		}
		return nil
	})
	sort.Strings(paths)
	return paths
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// TestSpoolDamagedInTheMiddle: one bit of a spooled packet has flipped. That
// batch becomes a gap of its exact size, the file is kept aside, and all that
// came before and after is delivered.
func TestSpoolDamagedInTheMiddle(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{agent: `spool = "256MiB"`})
		const n = 60_000 // 25 MB
		s.spooled(n)
		flip(t, s.segments()[0])
		s.relay.start()
		taps := s.source.tapCount()
		s.agent.config = s.write("smaller.toml", strings.Replace(s.read("branch-7.toml"), `spool = "`, "memory = \"2MiB\"\nspool = \"", 1))
		s.agent.start() // with less memory than it has to deliver
		s.source.tapped(taps)
		s.source.send(1000)
		b := s.reckon()
		if lost := b.lost["spool_corrupt"]; lost == 0 || lost > 2000 || b.allLost() != lost {
			t.Errorf("want a batch or two in gaps of spool_corrupt: %v", b)
		}
		if b.vanished != 0 {
			t.Errorf("what was spooled before the death is nowhere: %v", b)
		}
		if aside, _ := filepath.Glob(s.path("branch-7", "spool", "*", "quarantine", "*")); len(aside) == 0 {
			t.Error("nothing was put into quarantine")
		}
	})
}

// flip turns one bit in the middle of a file over.
func flip(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 0x10
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSpoolTorn: the end of the last segment is missing, as after a crash of
// the machine. What is whole is delivered; the rest is within the time of the
// agent's death. (The journal's own tests cut at every byte.)
func TestSpoolTorn(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s, dice := newSite(t, plan{}), newDice(t)
		const n = 2000
		s.spooled(n)
		kept := s.path("kept")
		if err := os.CopyFS(kept, os.DirFS(s.path("branch-7", "spool"))); err != nil {
			t.Fatal(err)
		}
		for _, cut := range []int64{1, 2, 15, 16, 17, 1 + dice.Int64N(300), 300 + dice.Int64N(50_000)} {
			s.torn(cut, kept)
		}
	})
}

// torn delivers a spool that lacks the last bytes, to a relay that is new.
func (s *site) torn(cut int64, kept string) {
	s.t.Helper()
	spool := s.path("branch-7", "spool")
	for _, old := range []string{spool, s.path("relay", "history")} {
		if err := os.RemoveAll(old); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := os.CopyFS(spool, os.DirFS(kept)); err != nil {
		s.t.Fatal(err)
	}
	private(s.t, spool)
	segments := s.segments()
	last := segments[len(segments)-1]
	if err := os.Truncate(last, fileSize(last)-cut); err != nil {
		s.t.Fatal(err)
	}
	s.relay.start()
	taps := s.source.tapCount()
	s.agent.start()
	s.source.tapped(taps)
	b := s.reckon()
	if b.kept == 0 || b.kept+b.vanished+b.lost["spool_corrupt"] != s.source.total() || b.vanished+b.allLost() == 0 {
		s.t.Errorf("%d bytes cut off: %v", cut, b)
	}
	s.agent.Kill()
	s.relay.Stop()
}

// private sets the modes that os.CopyFS does not carry over.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
