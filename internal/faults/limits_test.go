//go:build faults

package faults

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"poip/internal/poiptest"
	"poip/internal/wire"
)

// TestDescriptorsRunOut: the relay may open 64 files, and hundreds of analysts
// want in. Streams that flow go on, at little CPU, and when the crowd has gone
// others are let in again.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{relayAs: []string{"prlimit", "--nofile=64"}})
		s.start()
		before := s.rest()
		reader := follow(t, livePort)
		stop := s.source.flow(500)
		eventually(t, "packets flow", func() bool { return reader.count() > 0 })
		var crowd []net.Conn
		for range 300 {
			conn, err := net.Dial("tcp", livePort) // the kernel takes it, the relay cannot
			if err != nil {
				t.Fatal(err)
			}
			crowd = append(crowd, conn)
		}
		eventually(t, "no descriptor is left", func() bool { return s.relay.descriptors() >= 60 })
		time.Sleep(2 * time.Second) // of greeting those that were let in
		cpu, seen := s.relay.cpuTime(), reader.count()
		const watch = 5 * time.Second
		time.Sleep(watch)
		if used := s.relay.cpuTime() - cpu; used > watch/5 {
			t.Errorf("without descriptors the relay used %v of CPU in %v", used, watch)
		}
		eventually(t, "packets go on to flow", func() bool { return reader.count() > seen+100 })
		for _, conn := range crowd {
			conn.Close()
		}
		eventually(t, "another analyst is let in", func() bool { return glance(livePort) == nil })
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		reader.close()
		s.rested(before)
	})
}

func (r *relay) descriptors() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.Cmd.Process.Pid))
	return len(entries)
}

// cpuTime is what the process has used so far.
func (r *relay) cpuTime() time.Duration {
	r.site.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.Cmd.Process.Pid))
	if err != nil {
		r.site.t.Fatal(err)
	}
	// proc(5): after the name in parentheses comes field 3; utime and stime are
	// 14 and 15, in ticks of a hundredth of a second.
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	var user, system int64
	fmt.Sscan(fields[14-3], &user)
	fmt.Sscan(fields[15-3], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// TestOversizedFrames: lengths of 4 GiB from one who has a certificate. Each is
// refused for what it is, costs no memory, and hurts nobody else.
func TestOversizedFrames(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		s.start()
		stop := s.source.flow(1000)
		eventually(t, "packets flow", func() bool { return s.relay.received() > 1000 })
		before := s.rest()
		was := s.relay.memory("VmRSS")
		for _, kind := range []wire.Type{wire.TypeHello, wire.TypeBatch, wire.TypeGap, wire.TypeStats, wire.TypeEnd, 200} {
			for _, length := range []uint32{1<<32 - 1, 1 << 31, wire.MaxBatchLen + 1} {
				s.oversized(kind, length, false)
				s.oversized(kind, length, true)
			}
		}
		// 36 times what fits into a frame would be 36 MiB, what was claimed 100 GiB.
		if grown := s.relay.memory("VmRSS") - was; grown > 24<<20 {
			t.Errorf("the relay's memory grew by %d MiB", grown>>20)
		}
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		s.rested(before)
	})
}

// oversized announces a frame, perhaps after a good hello, and reads the refusal.
func (s *site) oversized(kind wire.Type, length uint32, greeted bool) {
	s.t.Helper()
	speaker := s.dial("branch-7")
	if greeted {
		speaker.hello("branch-7/other", time.Now())
		speaker.accepted()
	}
	header := []byte{byte(kind), 0, 0, 0}
	speaker.say(append(binary.LittleEndian.AppendUint32(header, length), bytes.Repeat([]byte{0xff}, 64)...))
	if refusal := speaker.refused(); refusal.Code != wire.CodeProtocol {
		s.t.Errorf("a frame of type %d and length %d: %v", kind, length, refusal)
	}
	speaker.conn.Abort()
}
