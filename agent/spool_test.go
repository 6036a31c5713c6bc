package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"poip/agent/capture"
	"poip/internal/config"
	"poip/internal/journal"
	"poip/internal/transport"
	"poip/internal/wire"
)

// A sensor is what outlives an agent: a folder, a relay, and the link to it.
type sensor struct {
	t     *testing.T
	relay *fakeRelay
	data  string
	down  atomic.Bool // the link is
	tweak func(*Config)
}

func newSensor(t *testing.T, relay *fakeRelay) *sensor {
	s := &sensor{t: t, relay: relay, data: t.TempDir(), tweak: func(*Config) {}}
	relay.Down = func(transport.Endpoint) error {
		if s.down.Load() {
			return errors.New("link is down")
		}
		return nil
	}
	return s
}

// agent is one that captures what run does on eth0.
func (s *sensor) agent(run func(capture.Sink)) *Agent {
	a := testAgent(s.t, s.relay, map[string]capture.Source{"eth0": interfaceOf(run)})
	a.config.Data, a.config.Memory, a.config.Spool = s.data, 4<<20, 64<<20
	s.tweak(&a.config)
	return a
}

// run runs an agent until stop is called in what it captures, and some time
// more.
func (s *sensor) run(capture func(capture.Sink, context.CancelFunc)) *Agent {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	a := s.agent(sinkOf(capture, stop))
	if err := a.Run(ctx); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// leave has an agent run that finds no relay, and leaves so many packets in its spool.
func (s *sensor) leave(n int) {
	s.down.Store(true)
	s.run(func(sink capture.Sink, stop context.CancelFunc) {
		paced(sink, 0, n)
		stop()
	})
	s.down.Store(false)
}

func sinkOf(run func(capture.Sink, context.CancelFunc), stop context.CancelFunc) func(capture.Sink) {
	return func(sink capture.Sink) { run(sink, stop) }
}

// paced captures numbered packets of 1400 bytes at some 7 MB a second, which
// any disk can take.
func paced(sink capture.Sink, first, count int) {
	for i := first; i < first+count; i += 100 {
		packets(sink, i, min(100, first+count-i), 1400)
		sink.Flush()
		time.Sleep(20 * time.Millisecond)
	}
}

// spooled is what an agent says of its stream.
func spooled(a *Agent) StreamStatus { return a.Status()[0] }

// snapshot copies a folder as it is at this moment: what a crash would leave.
func snapshot(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := copyFolder(from, to); err != nil {
		t.Fatal(err)
	}
	return to
}

// copyFolder copies what is there, while a journal may write to it and delete:
// again where files were made or deleted meanwhile, since of a segment that is
// being made it might have taken the one file before it had entries, and the
// other one after.
func copyFolder(from, to string) error {
	for {
		before, err := filesBelow(from)
		if err != nil {
			return err
		}
		copied := os.CopyFS(to, os.DirFS(from))
		if copied != nil && !errors.Is(copied, fs.ErrNotExist) {
			return copied
		}
		after, err := filesBelow(from)
		if err != nil {
			return err
		}
		if copied == nil && slices.Equal(before, after) {
			return nil
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
}

func filesBelow(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return names, err
}

func TestAnOutageIsSpooledAndDeliveredInOrder(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		var during StreamStatus
		var a *Agent
		ctx, stop := context.WithCancel(t.Context())
		a = s.agent(func(sink capture.Sink) {
			paced(sink, 0, 1000)
			s.down.Store(true)
			relay.hangUp()
			paced(sink, 1000, 20000) // 28 MB, seven times the memory
			during = spooled(a)
			s.down.Store(false)
			paced(sink, 21000, 2000)
			time.Sleep(time.Minute)
			stop()
		})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if during.LostPackets() != 0 || during.QueuedBytes > 5<<20 || during.Spool.Bytes < 20<<20 || during.Spool.Packets < 10000 {
			t.Errorf("during the outage: %+v, %+v", during, during.Spool)
		}
		if during.Spool.Age == 0 {
			t.Error("the oldest packet has no age")
		}
		ep := relay.stream("s/eth0").epochs
		if len(ep) != 1 || len(ep[0].gaps) != 0 {
			t.Fatalf("%d epochs, gaps %+v", len(ep), ep[0].gaps)
		}
		checkNumbered(t, ep[0].packets, 0, 23000)
		after := spooled(a)
		closes(t, after)
		if after.Acknowledged != 23000 || after.Queued != 0 || after.Spool.Packets != 0 || after.Spool.Bytes > 1<<20 {
			t.Errorf("after the outage: %+v, %+v", after, after.Spool)
		}
	})
}

// TestStreamsOfACaptureCatchUpTogether: they have one memory, and a relay that
// takes what they send and acknowledges none of it does not have them lose what
// is new.
func TestStreamsOfACaptureCatchUpTogether(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		const streams, each = 8, 3000
		s := newSensor(t, relay)
		s.down.Store(true)
		relay.Hold = true
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var a *Agent
		var most int64
		a = testAgent(t, relay, map[string]capture.Source{"eth0": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			var sinks [streams]capture.Sink
			for i := range sinks {
				info := ethernet
				info.Sub = strconv.Itoa(i)
				sinks[i] = open(info)
			}
			paced := func(from, to int) {
				for i := from; i < to; i += 50 {
					for _, sink := range sinks {
						packets(sink, i, 50, 1400)
						sink.Flush()
					}
					time.Sleep(50 * time.Millisecond)
					most = max(most, memoryOf(a))
				}
			}
			paced(0, each/2)
			s.down.Store(false)
			time.Sleep(20 * time.Second)
			paced(each/2, each)
			relay.mu.Lock()
			relay.Hold = false
			relay.mu.Unlock()
			time.Sleep(time.Minute)
			stop()
			return ctx.Err()
		})})
		a.config.Data, a.config.Memory, a.config.Spool = s.data, 4<<20, 1<<30
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if most > int64(a.config.Memory) {
			t.Errorf("they take %d bytes of memory", most)
		}
		for i := range streams {
			var got []string
			for _, ep := range relay.stream("s/eth0." + strconv.Itoa(i)).epochs {
				got = append(got, ep.packets...)
			}
			checkNumbered(t, got, 0, each)
		}
	})
}

// memoryOf is what an agent's streams take.
func memoryOf(a *Agent) (bytes int64) {
	for _, s := range a.Status() {
		bytes += s.QueuedBytes
	}
	return bytes
}

func TestNothingGoesToDiskWhileTheRelayAcknowledges(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
			paced(sink, 0, 50000)
			stop()
		})
		checkNumbered(t, relay.stream("s/eth0").epochs[0].packets, 0, 50000)
		if status := spooled(a); status.Spool.Bytes != 0 {
			t.Errorf("on disk: %+v", status.Spool)
		}
	})
}

// TestStoppedAndStartedAgain: what a relay has not got before the agent stops
// comes when it runs again, before what is new, and nothing is missing.
func TestStoppedAndStartedAgain(t *testing.T) {
	for _, sync := range []SpoolSync{SyncPeriodic, SyncBatch} {
		world(t, func(t *testing.T, relay *fakeRelay) {
			s := newSensor(t, relay)
			s.tweak = func(c *Config) { c.SpoolSync = sync }
			s.down.Store(true)
			a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 0, 10000)
				sink.Lost(7, wire.CauseKernelDrop)
				paced(sink, 10000, 50)
				stop()
			})
			if left := spooled(a); left.Queued != 10050 || left.Lost[wire.CauseKernelDrop] != 7 {
				t.Errorf("left: %+v", left)
			}
			s.down.Store(false)
			a = s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 20000, 100)
				time.Sleep(time.Minute)
				stop()
			})
			eps := relay.stream("s/eth0").epochs
			if len(eps) != 2 {
				t.Fatalf("%d epochs", len(eps))
			}
			checkNumbered(t, eps[0].packets, 0, 10050)
			checkNumbered(t, eps[1].packets, 20000, 100)
			if g := eps[0].gaps; len(g) != 1 || g[0].Count != 7 || g[0].First != 10000 || g[0].Cause != wire.CauseKernelDrop {
				t.Errorf("gaps %+v", g)
			}
			if ends := eps[0].ends; len(ends) != 1 || ends[0].Final || ends[0].Next != 10057 {
				t.Errorf("ends %+v", ends)
			}
			status := spooled(a)
			closes(t, status)
			if status.Recovered != 10050 || status.Captured != 10157 || status.Acknowledged != 10150 {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// TestASessionLastsWhileNothingFollows what an earlier run has left, as where the
// interface is not there.
func TestASessionLastsWhileNothingFollows(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.leave(100)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		a := s.agent(nil)
		a.Source = func(CaptureConfig) (capture.Source, error) {
			return sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
				time.Sleep(time.Minute)
				if status := spooled(a); status.State != StateConnected || status.Trouble != "" || status.Acknowledged != 100 {
					t.Errorf("status %+v", status)
				}
				packets(open(ethernet), 100, 100, 60)
				stop()
				return ctx.Err()
			}), nil
		}
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		eps := relay.stream("s/eth0").epochs
		if len(eps) != 2 || relay.sessions != 1 {
			t.Fatalf("%d epochs in %d sessions", len(eps), relay.sessions)
		}
		if n := len(eps[0].stats); n < 12 || eps[0].stats[n-1].QueuedPackets != 0 {
			t.Errorf("in a quiet minute %d statistics", n)
		}
		checkNumbered(t, eps[1].packets, 100, 100)
	})
}

// TestNothingIsToldOfARunThatWasDelivered: its spool was used, and holds
// nothing that anybody has to hear of again.
func TestNothingIsToldOfARunThatWasDelivered(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		for i := range 3 {
			s.down.Store(true)
			s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 1000*i, 1000)
				time.Sleep(10 * time.Second)
				s.down.Store(false)
				time.Sleep(time.Minute)
				stop()
			})
		}
		eps := relay.stream("s/eth0").epochs
		if len(eps) != 3 || relay.sessions != 3 {
			t.Fatalf("%d epochs in %d sessions", len(eps), relay.sessions)
		}
		for i, ep := range eps {
			checkNumbered(t, ep.packets, 1000*i, 1000)
			if len(ep.gaps) != 0 || len(ep.ends) != 1 {
				t.Errorf("epoch %d: gaps %+v, ends %+v", i, ep.gaps, ep.ends)
			}
		}
	})
}

// TestACrashIsAGapOfUnknownCount: what was on disk comes, in order, and then is
// said when the rest was lost.
func TestACrashIsAGapOfUnknownCount(t *testing.T) {
	for _, arrived := range []int{0, 3000} { // of the packets, before the link broke
		world(t, func(t *testing.T, relay *fakeRelay) {
			s := newSensor(t, relay)
			var left string
			s.down.Store(arrived == 0) // before anybody dials
			s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 0, arrived)
				s.down.Store(true)
				relay.hangUp()
				paced(sink, arrived, 10000)
				time.Sleep(5 * time.Second)
				left = snapshot(t, s.data)
				packets(sink, 50000, 10, 60) // which nobody will see
				stop()
			})
			s.data = left
			s.down.Store(false)
			a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 20000, 100)
				time.Sleep(time.Minute)
				stop()
			})
			eps := relay.stream("s/eth0").epochs
			if len(eps) != 2 {
				t.Fatalf("%d epochs", len(eps))
			}
			checkNumbered(t, eps[0].packets, 0, arrived+10000)
			checkNumbered(t, eps[1].packets, 20000, 100)
			newest := int64(arrived+9999) * 1e9
			if g := eps[0].gaps; len(g) != 1 || g[0].Count != 0 || g[0].Cause != wire.CauseAgentCrash || g[0].Earliest != newest || g[0].Latest < time.Now().Add(-10*time.Minute).UnixNano() {
				t.Errorf("gaps %+v, newest packet %d", g, newest)
			}
			if ends := eps[0].ends; len(ends) != 1 || ends[0].Final {
				t.Errorf("ends %+v", ends)
			}
			status := spooled(a)
			closes(t, status)
			if status.Queued != 0 || status.Unknown[wire.CauseAgentCrash] != 1 {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// TestOverflowOfTheSpool: each policy loses what it says, and counts it.
func TestOverflowOfTheSpool(t *testing.T) {
	const all = 30000 // 42 MB, into 16 MiB of disk and 4 MiB of memory
	for _, c := range []struct {
		name     string
		overflow Overflow
		spool    config.Size
		disk     int64
		least    int64 // bytes that are kept on disk
	}{
		{"drop_oldest", OverflowDropOldest, 16 << 20, 0, 12 << 20},
		{"drop_newest", OverflowDropNewest, 16 << 20, 0, 12 << 20},
		{"drop_oldest on a smaller disk", OverflowDropOldest, 64 << 20, 16 << 20, 11 << 20},
		{"drop_oldest on a disk of one segment", OverflowDropOldest, 1 << 30, 16 << 20, 4 << 20},
		{"drop_newest on a smaller disk", OverflowDropNewest, 64 << 20, 16 << 20, 12 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			world(t, func(t *testing.T, relay *fakeRelay) {
				s := newSensor(t, relay)
				s.tweak = func(to *Config) { to.Spool, to.SpoolOverflow = c.spool, c.overflow }
				var size atomic.Int64
				size.Store(c.disk)
				s.down.Store(true)
				var during StreamStatus
				var a *Agent
				ctx, stop := context.WithCancel(t.Context())
				a = s.agent(func(sink capture.Sink) {
					paced(sink, 0, all)
					during = spooled(a)
					s.down.Store(false)
					time.Sleep(time.Minute)
					stop()
				})
				a.files = func(dir string) journal.FS { return newTestDisk(t, dir, &size) }
				if err := a.Run(ctx); err != nil {
					t.Fatal(err)
				}
				if during.Spool.Bytes > 16<<20 || during.Spool.Bytes < c.least {
					t.Errorf("of 16 MiB %d are in use", during.Spool.Bytes)
				}
				ep := relay.stream("s/eth0").epochs[0]
				lost := 0
				for _, g := range ep.gaps {
					if g.Cause != wire.CauseSpoolOverflow {
						t.Errorf("gap %+v", g)
					}
					lost += int(g.Count)
				}
				if len(ep.packets)+lost != all || ep.position != all {
					t.Fatalf("%d packets arrived and %d are in gaps, of %d", len(ep.packets), lost, all)
				}
				if kept := int64(1400 * len(ep.packets)); kept < c.least {
					t.Errorf("%d bytes were kept", kept)
				}
				status := spooled(a)
				closes(t, status)
				if status.Lost[wire.CauseSpoolOverflow] != uint64(lost) || status.Acknowledged != uint64(len(ep.packets)) {
					t.Errorf("status %+v, gaps have %d", status, lost)
				}
				checkAround(t, ep, all)
				oldest := ep.gaps[0].First == 0
				newest := all - int(ep.gaps[len(ep.gaps)-1].Next())
				if (c.overflow == OverflowDropOldest) != (oldest && 1400*newest > 4<<20) {
					t.Errorf("gaps %+v", ep.gaps)
				}
			})
		})
	}
}

// checkAround holds what arrived of numbered packets against the gaps.
func checkAround(t *testing.T, ep *fakeEpoch, all int) {
	t.Helper()
	at, got := 0, ep.packets
	for _, g := range append(ep.gaps, wire.Gap{First: wire.PacketNumber(all)}) {
		n := int(g.First) - at
		checkNumbered(t, got[:min(n, len(got))], at, n)
		at, got = int(g.Next()), got[n:]
	}
}

// TestACaptureThatBlocksWaitsForTheRelay, and loses nothing by itself.
func TestACaptureThatBlocksWaitsForTheRelay(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.tweak = func(c *Config) { c.Spool, c.SpoolOverflow = 8<<20, OverflowBlock }
		s.down.Store(true)
		time.AfterFunc(time.Hour, func() { s.down.Store(false) })
		began := time.Now()
		a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
			packets(sink, 0, 20000, 1400) // 28 MB
			if took := time.Since(began); took < time.Hour {
				t.Errorf("the capture waited for %v", took)
			}
			sink.Flush()
			time.Sleep(time.Minute)
			stop()
		})
		ep := relay.stream("s/eth0").epochs[0]
		checkNumbered(t, ep.packets, 0, 20000)
		if status := spooled(a); len(ep.gaps) != 0 || status.LostPackets() != 0 {
			t.Errorf("gaps %+v, status %+v", ep.gaps, status)
		}
	})
}

// TestDamageIsAGapOfExactCount, and what follows it is delivered.
func TestDamageIsAGapOfExactCount(t *testing.T) {
	for _, when := range []string{"while the agent runs", "between two runs"} {
		t.Run(when, func(t *testing.T) {
			world(t, func(t *testing.T, relay *fakeRelay) {
				s := newSensor(t, relay)
				s.down.Store(true)
				running := when == "while the agent runs"
				a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
					paced(sink, 0, 20000)
					if running {
						flipBit(t, s.data, 1)
						s.down.Store(false)
						time.Sleep(time.Minute)
					}
					stop()
				})
				if !running {
					flipBit(t, s.data, 1)
					s.down.Store(false)
					a = s.run(func(_ capture.Sink, stop context.CancelFunc) {
						time.Sleep(time.Minute)
						stop()
					})
				}
				ep := relay.stream("s/eth0").epochs[0]
				if len(ep.gaps) != 1 || ep.gaps[0].Cause != wire.CauseSpoolCorrupt {
					t.Fatalf("gaps %+v", ep.gaps)
				}
				g := ep.gaps[0]
				checkNumbered(t, ep.packets[:g.First], 0, int(g.First))
				checkNumbered(t, ep.packets[g.First:], int(g.Next()), 20000-int(g.Next()))
				status := spooled(a)
				closes(t, status)
				if g.Count == 0 || g.Count > 100 || status.Lost[wire.CauseSpoolCorrupt] != g.Count || status.Queued != 0 {
					t.Errorf("gap %+v, status %+v", g, status)
				}
			})
		})
	}
}

// flipBit flips a bit in the midst of a spool's segment.
func flipBit(t *testing.T, data string, which int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, spoolFolder, "eth0", "*.pcap"))
	if err != nil || len(files) <= which {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	f, err := os.OpenFile(files[which], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at, b := info.Size()/2, make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestDamageAfterACrash: both are told, and what follows them is delivered.
func TestDamageAfterACrash(t *testing.T) {
	for which := range 4 { // segments
		world(t, func(t *testing.T, relay *fakeRelay) {
			s := newSensor(t, relay)
			s.down.Store(true)
			var left string
			s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 0, 10000)
				time.Sleep(10 * time.Second)
				left = snapshot(t, s.data)
				stop()
			})
			s.data = left
			flipBit(t, s.data, which)
			s.down.Store(false)
			a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 50000, 1000)
				time.Sleep(time.Minute)
				stop()
			})
			eps := relay.stream("s/eth0").epochs
			if len(eps) != 2 || eps[0].position != 10000 {
				t.Fatalf("%d epochs, the first up to %d", len(eps), eps[0].position)
			}
			checkNumbered(t, eps[1].packets, 50000, 1000)
			gaps := eps[0].gaps
			if len(gaps) != 2 || gaps[0].Cause != wire.CauseSpoolCorrupt || gaps[1].Cause != wire.CauseAgentCrash {
				t.Fatalf("gaps %+v", gaps)
			}
			eps[0].gaps = gaps[:1]
			checkAround(t, eps[0], 10000)
			closes(t, spooled(a))
		})
	}
}

// TestACaptureThatIsNoMoreLeavesNothingBehind: its spool is sent.
func TestACaptureThatIsNoMoreLeavesNothingBehind(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.leave(1000)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		a := s.agent(func(capture.Sink) {})
		a.config.Captures[0].Name = "eth1"
		source := interfaceOf(func(sink capture.Sink) { paced(sink, 5000, 10) })
		a.Source = func(CaptureConfig) (capture.Source, error) { return source, nil }
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		checkNumbered(t, relay.stream("s/eth0").epochs[0].packets, 0, 1000)
		checkNumbered(t, relay.stream("s/eth1").epochs[0].packets, 5000, 10)
	})
}

// TestEmptySpoolsOfNoCaptureAreDeleted: no stream is made of them, which would
// have a share of the disk.
func TestEmptySpoolsOfNoCaptureAreDeleted(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		data := t.TempDir()
		run := func(names ...string) (all []StreamStatus) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			sources := map[string]capture.Source{}
			for _, name := range names {
				sources[name] = interfaceOf(func(sink capture.Sink) { paced(sink, 0, 100) })
			}
			a := testAgent(t, relay, sources)
			a.config.Data, a.config.Memory, a.config.Spool, a.config.SpoolSync = data, 4<<20, 64<<20, SyncBatch
			if err := a.Run(ctx); err != nil {
				t.Fatal(err)
			}
			return a.Status()
		}
		run("eth0", "eth0.100", "old", "kept")
		kept := filepath.Join(data, spoolFolder, "kept", "by-hand")
		if err := os.WriteFile(kept, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		all := run("eth0")
		if len(all) != 1 || all[0].Stream.Capture != "eth0" || all[0].Spool.Limit != 64<<20 {
			t.Errorf("streams %+v", all)
		}
		folders, err := os.ReadDir(filepath.Join(data, spoolFolder))
		if err != nil || len(folders) != 2 || folders[0].Name() != "eth0" || folders[1].Name() != "kept" {
			t.Errorf("folders %v, %v", folders, err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	})
}

// TestASpoolThatHoldsSomethingIsNotDeleted, however little it is.
func TestASpoolThatHoldsSomethingIsNotDeleted(t *testing.T) {
	for name, c := range map[string]func(sink capture.Sink){
		"packets":                func(sink capture.Sink) { packets(sink, 0, 1, 60) },
		"a gap":                  func(sink capture.Sink) { sink.Lost(1, wire.CauseKernelDrop) },
		"a gap of unknown count": func(sink capture.Sink) { sink.Lost(0, wire.CauseCaptureRestart) },
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %t", name, crash), func(t *testing.T) {
				world(t, func(t *testing.T, relay *fakeRelay) {
					s := newSensor(t, relay)
					s.tweak = func(c *Config) { c.SpoolSync = SyncBatch }
					s.down.Store(true)
					var left string
					a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
						c(sink)
						sink.Flush()
						time.Sleep(10 * time.Second)
						left = snapshot(t, s.data)
						stop()
					})
					if crash {
						a.config.Data = left
					}
					if a.discardEmpty("eth0") {
						t.Error("it is said to be empty")
					}
					files, err := filepath.Glob(filepath.Join(a.config.Data, spoolFolder, "eth0", "*.idx"))
					if err != nil || len(files) == 0 {
						t.Errorf("files %q, %v", files, err)
					}
				})
			})
		}
	}
}

// TestARelayThatForgetsIsToldWhatCannotComeAgain: what it acknowledged before.
func TestARelayThatForgetsIsToldWhatCannotComeAgain(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		var a *Agent
		ctx, stop := context.WithCancel(t.Context())
		a = s.agent(func(sink capture.Sink) {
			paced(sink, 0, 1000)
			s.down.Store(true)
			relay.hangUp()
			paced(sink, 1000, 5000)
			relay.forget()
			s.down.Store(false)
			time.Sleep(time.Minute)
			stop()
		})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		ep := relay.stream("s/eth0").epochs[0]
		if oldest := ep.hello.Oldest; oldest == 0 || oldest > 1000 {
			t.Errorf("oldest is %d", oldest)
		}
		first := int(ep.hello.Oldest)
		checkNumbered(t, ep.packets, first, 6000-first)
	})
}

// TestAnHourWithoutARelay: memory is bounded, and little is done.
func TestAnHourWithoutARelay(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.tweak = func(c *Config) { c.Spool = 8 << 20 }
		s.down.Store(true)
		var during StreamStatus
		var a *Agent
		ctx, stop := context.WithCancel(t.Context())
		a = s.agent(func(sink capture.Sink) {
			for i := range 3600 {
				packets(sink, 10*i, 10, 1400)
				sink.Flush()
				time.Sleep(time.Second)
			}
			during = spooled(a)
			stop()
		})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if during.QueuedBytes > 4<<20 || during.Spool.Bytes > 8<<20 || during.Captured != 36000 {
			t.Errorf("after an hour: %+v, %+v", during, during.Spool)
		}
		closes(t, during)
		if len(relay.dialed) > 3600/5 {
			t.Errorf("dialed %d times in an hour", len(relay.dialed))
		}
	})
}

// TestAFullDiskCostsWhatDoesNotFitIntoMemory: that is counted, and when there is
// room again everything goes on by itself.
func TestAFullDiskCostsWhatDoesNotFitIntoMemory(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		var size atomic.Int64
		var during, later StreamStatus
		var a *Agent
		ctx, stop := context.WithCancel(t.Context())
		s.tweak = func(c *Config) { c.SpoolOverflow = OverflowDropNewest }
		s.down.Store(true)
		a = s.agent(func(sink capture.Sink) {
			paced(sink, 0, 5000)
			size.Store(used(os.DirFS(s.data)))
			paced(sink, 5000, 10000) // 14 MB, into what is left of 4 MiB of memory
			time.Sleep(10 * time.Second)
			during = spooled(a)
			size.Store(0)
			time.Sleep(10 * time.Second)
			paced(sink, 15000, 10000)
			later = spooled(a)
			s.down.Store(false)
			time.Sleep(time.Minute)
			stop()
		})
		a.files = func(dir string) journal.FS { return newTestDisk(t, dir, &size) }
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		lost := during.Lost[wire.CauseSpoolOverflow]
		if during.Spool.Trouble == "" || lost == 0 || during.QueuedBytes > 5<<20 {
			t.Errorf("while the disk is full: %+v, %+v", during, during.Spool)
		}
		if later.Spool.Trouble != "" || later.LostPackets() != lost {
			t.Errorf("when there is room again: %+v, %+v", later, later.Spool)
		}
		ep := relay.stream("s/eth0").epochs[0]
		if len(ep.gaps) != 1 || ep.gaps[0].Count != lost || len(ep.packets) != 25000-int(lost) {
			t.Fatalf("%d packets arrived, gaps %+v, %d lost", len(ep.packets), ep.gaps, lost)
		}
		g := ep.gaps[0]
		checkNumbered(t, ep.packets[:g.First], 0, int(g.First))
		checkNumbered(t, ep.packets[g.First:], int(g.Next()), 25000-int(g.Next()))
		closes(t, spooled(a))
	})
}

// TestWithoutAFolderThereIsMemory: the trouble is told, and packets go on.
func TestWithoutAFolderThereIsMemory(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		s.data = filepath.Join(s.data, "file")
		if err := os.WriteFile(s.data, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		a := s.run(func(sink capture.Sink, stop context.CancelFunc) {
			paced(sink, 0, 1000)
			stop()
		})
		checkNumbered(t, relay.stream("s/eth0").epochs[0].packets, 0, 1000)
		if status := spooled(a); status.Spool == nil || status.Spool.Trouble == "" {
			t.Errorf("status %+v", status)
		}
	})
}

// TestARelayMayHaveMoreThanItAcknowledged, when the agent begins anew.
func TestARelayMayHaveMoreThanItAcknowledged(t *testing.T) {
	for _, crash := range []bool{false, true} {
		world(t, func(t *testing.T, relay *fakeRelay) {
			s := newSensor(t, relay)
			relay.Hold, relay.Ack.Window = true, 1<<20
			var left string
			s.run(func(sink capture.Sink, stop context.CancelFunc) {
				paced(sink, 0, 5000)
				time.Sleep(10 * time.Second)
				left = snapshot(t, s.data)
				stop()
			})
			if crash {
				s.data = left
			}
			relay.Hold = false
			before := len(relay.stream("s/eth0").epochs[0].packets)
			a := s.run(func(_ capture.Sink, stop context.CancelFunc) {
				time.Sleep(time.Minute)
				stop()
			})
			ep := relay.stream("s/eth0").epochs[0]
			if before == 0 || before == 5000 {
				t.Fatalf("the relay had %d packets before", before)
			}
			checkNumbered(t, ep.packets, 0, 5000)
			if gaps := len(ep.gaps); crash != (gaps == 1) {
				t.Errorf("gaps %+v", ep.gaps)
			}
			status := spooled(a)
			closes(t, status)
			if status.Queued != 0 || status.Acknowledged != 5000 {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// TestACaptureThatIsOpenedAnewHasAGap of unknown count, bounded by the last packet
// and the first moment of the new run.
func TestACaptureThatIsOpenedAnewHasAGap(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		ctx, stop := context.WithCancel(t.Context())
		runs := 0
		var again time.Time
		a := testAgent(t, relay, map[string]capture.Source{"eth0": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			runs++
			again = time.Now()
			sink := open(ethernet)
			packets(sink, 10*runs, 10, 60)
			if runs == 1 {
				open(ethernet) // a new section of what a command writes: nothing is missing
				packets(sink, 20, 0, 60)
				return errors.New("something broke")
			}
			stop()
			<-ctx.Done()
			return ctx.Err()
		})})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		eps := relay.stream("s/eth0").epochs
		for i, ep := range eps[:len(eps)-1] {
			if len(ep.gaps) != 0 {
				t.Errorf("epoch %d has gaps %+v", i, ep.gaps)
			}
		}
		g := eps[len(eps)-1].gaps
		if len(g) != 1 || g[0].Count != 0 || g[0].First != 0 || g[0].Cause != wire.CauseCaptureRestart || g[0].Latest != again.UnixNano() || g[0].Earliest == 0 {
			t.Errorf("gaps %+v", g)
		}
		if status := a.Status()[0]; status.Unknown[wire.CauseCaptureRestart] != 1 {
			t.Errorf("status %+v", status)
		}
	})
}

// TestStatusDoesNotWaitForSpools: to recover one may take a slow disk long, and
// a service manager that is not answered meanwhile begins the agent anew.
func TestStatusDoesNotWaitForSpools(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		s := newSensor(t, relay)
		ctx, stop := context.WithCancel(t.Context())
		a := s.agent(func(capture.Sink) { stop() })
		var size atomic.Int64
		recovering := false
		a.files = func(dir string) journal.FS {
			recovering = true
			if n := len(a.Status()); n != 0 {
				t.Errorf("%d streams before the first", n)
			}
			return newTestDisk(t, dir, &size)
		}
		if err := a.Run(ctx); err != nil || !recovering {
			t.Errorf("run: %v; a spool was recovered: %t", err, recovering)
		}
	})
}
