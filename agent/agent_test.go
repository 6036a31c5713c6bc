package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"poip/agent/capture"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A sourceFunc is a capture.Source.
type sourceFunc func(ctx context.Context, open func(capture.Info) capture.Sink) error

func (f sourceFunc) Run(ctx context.Context, open func(capture.Info) capture.Sink) error {
	return f(ctx, open)
}

var ethernet = capture.Info{LinkType: pcap.LinkEthernet, Snaplen: 262144, Description: "eth0"}

// packets fills a sink with numbered packets.
func packets(sink capture.Sink, first, count, length int) {
	for i := first; i < first+count; i++ {
		sink.Packet(uint32(i), 0, uint32(length), numbered(uint32(i), length))
	}
}

// file is a Source that has count packets.
func file(count, length int) sourceFunc {
	return func(_ context.Context, open func(capture.Info) capture.Sink) error {
		packets(open(ethernet), 0, count, length)
		return nil
	}
}

// interfaceOf is a Source that captures what run does, until ctx ends.
func interfaceOf(run func(capture.Sink)) sourceFunc {
	return func(ctx context.Context, open func(capture.Info) capture.Sink) error {
		sink := open(ethernet)
		run(sink)
		sink.Flush()
		<-ctx.Done()
		return ctx.Err()
	}
}

// testAgent is an agent of sensor "s" whose captures are the given ones: files
// where their names say so.
func testAgent(t *testing.T, relay *fakeRelay, sources map[string]capture.Source) *Agent {
	cfg := DefaultConfig()
	cfg.Relay, _ = ParseRelays("tls://one")
	cfg.Data, cfg.Spool, cfg.Admin.Listen = "unused", 0, ""
	for name := range sources {
		c := CaptureConfig{Name: name, Interface: "x"}
		if strings.HasPrefix(name, "file") {
			c = CaptureConfig{Name: name, File: "x"}
		}
		cfg.Captures = append(cfg.Captures, c)
	}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	a := New(cfg, "s", "poip-agent test", slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	a.Source = func(c CaptureConfig) (capture.Source, error) { return sources[c.Name], nil }
	a.Open = relay.Open
	return a
}

// world runs a test in a bubble where time passes by itself.
func world(t *testing.T, test func(t *testing.T, relay *fakeRelay)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newFakeRelay(t)) })
}

// closes holds a stream's status against its own promise.
func closes(t *testing.T, s StreamStatus) {
	t.Helper()
	if s.Captured != s.Acknowledged+s.LostPackets()+s.Queued {
		t.Errorf("the ledger does not close: %+v", s)
	}
}

func TestFileIsDeliveredAndItsEndIsFinal(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			sink := open(ethernet)
			packets(sink, 0, 5000, 1400)
			sink.Empty()
			return nil
		})})
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := relay.stream("s/file")
		if len(s.epochs) != 1 || relay.sessions != 1 {
			t.Fatalf("%d epochs in %d sessions", len(s.epochs), relay.sessions)
		}
		ep := s.epochs[0]
		checkNumbered(t, ep.packets, 0, 5000)
		if len(ep.ends) != 1 || !ep.ends[0].Final || ep.ends[0].Next != 5000 {
			t.Errorf("ends %+v", ep.ends)
		}
		h := ep.hello
		if h.Version != 1 || h.LinkType != pcap.LinkEthernet || h.Snaplen != 262144 || h.Interface != "eth0" || h.Agent != "poip-agent test" || h.Epoch == (wire.Epoch{}) {
			t.Errorf("hello %+v", h)
		}
		if n := len(ep.stats); n < 2 || ep.stats[n-1].Captured != 5000 || ep.stats[n-1].Empty != 1 {
			t.Errorf("statistics %+v", ep.stats)
		}
		status := a.Status()[0]
		closes(t, status)
		if status.State != StateDone || status.Acknowledged != 5000 || status.Queued != 0 || status.QueuedBytes != 0 || status.Sent != 5000 {
			t.Errorf("status %+v", status)
		}
	})
}

func TestEmptyFileStillMakesAStream(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": file(0, 0)})
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		ep := relay.stream("s/file").epochs[0]
		if len(ep.packets) != 0 || len(ep.ends) != 1 || !ep.ends[0].Final {
			t.Errorf("arrived: %+v", ep)
		}
	})
}

func TestOddPacketsAreBroughtWithinBounds(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			sink := open(capture.Info{LinkType: 1, Snaplen: 1 << 30})
			sink.Packet(1, 0, 0, nil)
			sink.Packet(1, 2e9, 4, numbered(0, 4))
			sink.Packet(1, 0, 0, numbered(1, 4))
			sink.Packet(1, 0, 300000, numbered(2, 300000))
			sink.Packet(1, 0, pcap.MaxCaptured, numbered(3, pcap.MaxCaptured))
			sink.Packet(1, 0, 4, numbered(4, 4))
			sink.Empty()
			return nil
		})})
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkNumbered(t, relay.stream("s/file").epochs[0].packets, 0, 5)
		if status := a.Status()[0]; status.Empty != 2 || status.Captured != 5 {
			t.Errorf("status %+v", status)
		}
	})
}

// TestManyStreamsDoNotDialAtOnce: at the relay, strangers from one address make
// room for one another.
func TestManyStreamsDoNotDialAtOnce(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		const streams = 100
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			for i := range streams {
				packets(open(capture.Info{Sub: fmt.Sprint(i), LinkType: 1, Snaplen: 100}), i, 1, 60)
			}
			return nil
		})})
		var dialing, most atomic.Int32
		a.Open = func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
			now := dialing.Add(1)
			defer dialing.Add(-1)
			for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
			}
			time.Sleep(time.Second)
			return relay.Open(ctx, ep)
		}
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := most.Load(); n != mostDialing {
			t.Errorf("%d streams dialed at once", n)
		}
		for i := range streams {
			checkNumbered(t, relay.stream(fmt.Sprintf("s/file.%d", i)).epochs[0].packets, i, 1)
		}
	})
}

// TestManyStreamsFindTheNextRelay: the first one is gone, so that dialing it
// takes as long as it may.
func TestManyStreamsFindTheNextRelay(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		const streams = 64
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			for i := range streams {
				packets(open(capture.Info{Sub: fmt.Sprint(i), LinkType: 1, Snaplen: 100}), i, 1, 60)
			}
			return nil
		})})
		gone := transport.Endpoint{Scheme: "tls", Host: "gone", Port: 1}
		a.config.Relay = append([]transport.Endpoint{gone}, a.config.Relay...)
		const patience = 10 * time.Second
		a.Open = func(ctx context.Context, ep transport.Endpoint) (transport.Conn, error) {
			if ep != gone {
				return relay.Open(ctx, ep)
			}
			time.Sleep(patience)
			return nil, context.DeadlineExceeded
		}
		began := time.Now()
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*patience {
			t.Errorf("the last stream was delivered after %s; dialing the relay that is gone takes %s", took, patience)
		}
	})
}

func TestInterfacesOfAFileBecomeStreams(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			zero := open(capture.Info{Sub: "0", LinkType: 1, Snaplen: 100})
			one := open(capture.Info{Sub: "1", LinkType: 113, Snaplen: 100})
			packets(zero, 0, 10, 60)
			packets(one, 10, 10, 60)
			return nil
		})})
		if err := a.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkNumbered(t, relay.stream("s/file.0").epochs[0].packets, 0, 10)
		checkNumbered(t, relay.stream("s/file.1").epochs[0].packets, 10, 10)
	})
}

func TestTooManyInterfacesAreRefused(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			for i := 0; ctx.Err() == nil; i++ {
				packets(open(capture.Info{Sub: fmt.Sprint(i), LinkType: 1, Snaplen: 100}), 0, 1, 60)
			}
			return ctx.Err()
		})})
		if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "more than 256 interfaces") {
			t.Errorf("got %v", err)
		}
		if n := len(a.Status()); n != maxStreams {
			t.Errorf("%d streams", n)
		}
	})
}

func TestBrokenFileIsDeliveredThenAnError(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		torn := errors.New("record 3 is cut off")
		runs := 0
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(_ context.Context, open func(capture.Info) capture.Sink) error {
			runs++
			packets(open(ethernet), 0, 3, 60)
			return torn
		})})
		if err := a.Run(t.Context()); !errors.Is(err, torn) {
			t.Errorf("got %v", err)
		}
		ep := relay.stream("s/file").epochs[0]
		checkNumbered(t, ep.packets, 0, 3)
		if runs != 1 || len(ep.ends) != 1 || !ep.ends[0].Final {
			t.Errorf("%d runs, ends %+v", runs, ep.ends)
		}
	})
}

func TestCaptureThatCannotBeginEndsTheAgent(t *testing.T) {
	for _, cause := range []error{fs.ErrPermission, errors.New("filter refused by libpcap")} {
		world(t, func(t *testing.T, relay *fakeRelay) {
			a := testAgent(t, relay, map[string]capture.Source{
				"eth0": sourceFunc(func(context.Context, func(capture.Info) capture.Sink) error {
					time.Sleep(time.Second)
					return cause
				}),
				"eth1": interfaceOf(func(sink capture.Sink) { packets(sink, 0, 10, 60) }),
			})
			began := time.Now()
			if err := a.Run(t.Context()); !errors.Is(err, cause) || !strings.Contains(err.Error(), "capture eth0") {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			ep := relay.stream("s/eth1").epochs[0]
			checkNumbered(t, ep.packets, 0, 10)
			if len(ep.ends) != 1 || ep.ends[0].Final {
				t.Errorf("ends %+v", ep.ends)
			}
		})
	}
}

func TestCaptureThatBreaksOffBeginsANewEpoch(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		ctx, stop := context.WithCancel(t.Context())
		var began []time.Time
		a := testAgent(t, relay, map[string]capture.Source{"eth0": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			n := len(began)
			began = append(began, time.Now())
			sink := open(ethernet)
			packets(sink, 10*n, 10, 60)
			sink.Lost(uint64(n), wire.CauseKernelDrop)
			if n < 3 {
				return errors.New("something broke")
			}
			stop()
			<-ctx.Done()
			return ctx.Err()
		})})
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		s := relay.stream("s/eth0")
		if relay.sessions != 1 || len(s.epochs) != 4 {
			t.Fatalf("%d epochs in %d sessions", len(s.epochs), relay.sessions)
		}
		for i, ep := range s.epochs {
			checkNumbered(t, ep.packets, 10*i, 10)
			if len(ep.ends) != 1 || ep.ends[0].Final {
				t.Errorf("epoch %d: ends %+v", i, ep.ends)
			}
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if got := began[i+1].Sub(began[i]); got != want {
				t.Errorf("restart %d after %v, want %v", i, got, want)
			}
		}
		if status := a.Status()[0]; status.Epochs != 4 || status.Lost[wire.CauseKernelDrop] != 6 {
			t.Errorf("status %+v", status)
		}
	})
}

// TestWhatACommandWritesDoesNotEndTheAgent: it may be another machine that
// says so, and there are other captures.
func TestWhatACommandWritesDoesNotEndTheAgent(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		ctx, stop := context.WithCancel(t.Context())
		runs := 0
		a := testAgent(t, relay, map[string]capture.Source{"eth0": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			packets(open(ethernet), runs, 1, 60)
			if runs++; runs == 3 {
				stop()
			}
			return fmt.Errorf("filter does not suit its second interface: %w", capture.ErrBroken)
		})})
		if err := a.Run(ctx); err != nil || runs != 3 {
			t.Errorf("%d runs, then %v", runs, err)
		}
	})
}

func TestWhatWasNotAcknowledgedIsSentAgain(t *testing.T) {
	for _, forget := range []bool{false, true} {
		world(t, func(t *testing.T, relay *fakeRelay) {
			relay.CutAt, relay.Cuts, relay.Forget = 3, 5, forget
			a := testAgent(t, relay, map[string]capture.Source{"file": file(3000, 1400)})
			if err := a.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := relay.stream("s/file")
			if len(s.epochs) != 1 || relay.sessions != 6 {
				t.Fatalf("%d epochs in %d sessions", len(s.epochs), relay.sessions)
			}
			checkNumbered(t, s.epochs[0].packets, 0, 3000)
			if status := a.Status()[0]; status.Sent <= 3000 && forget || status.Acknowledged != 3000 || status.Sessions != 6 {
				t.Errorf("status %+v", status)
			}
		})
	}
}

func TestOverflowIsCountedExactly(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		ctx, stop := context.WithCancel(t.Context())
		var up atomic.Bool
		relay.Down = func(transport.Endpoint) error {
			if up.Load() {
				return nil
			}
			return errors.New("link is down")
		}
		a := testAgent(t, relay, map[string]capture.Source{"eth0": interfaceOf(func(sink capture.Sink) {
			for i := range 10000 {
				packets(sink, i, 1, 1400)
				if i%100 == 0 {
					sink.Flush()
					time.Sleep(100 * time.Millisecond)
				}
			}
			up.Store(true)
		})})
		a.config.Memory = 2 << 20
		go func() {
			time.Sleep(2 * time.Minute)
			stop()
		}()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		ep := relay.stream("s/eth0").epochs[0]
		if len(ep.gaps) != 1 || ep.gaps[0].Cause != wire.CauseSpoolOverflow || ep.gaps[0].First != 0 {
			t.Fatalf("gaps %+v", ep.gaps)
		}
		lost := int(ep.gaps[0].Count)
		checkNumbered(t, ep.packets, lost, 10000-lost)
		if kept := 1400 * (10000 - lost); kept < 1<<20 {
			t.Errorf("of 2 MiB of memory %d bytes are used", kept)
		}
		status := a.Status()[0]
		closes(t, status)
		if status.Lost[wire.CauseSpoolOverflow] != uint64(lost) {
			t.Errorf("status %+v, the gap says %d", status, lost)
		}
	})
}

func TestStoppingDeliversWhatIsQueued(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		ctx, stop := context.WithCancel(t.Context())
		relay.Down = func(transport.Endpoint) error {
			if ctx.Err() == nil {
				return errors.New("link is down")
			}
			return nil
		}
		a := testAgent(t, relay, map[string]capture.Source{"eth0": interfaceOf(func(sink capture.Sink) {
			packets(sink, 0, 1000, 1400)
			time.Sleep(time.Hour) // the uplink is deep in its backoff
			stop()
		})})
		began := time.Now()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began) - time.Hour; took > time.Second {
			t.Errorf("stopping took %v", took)
		}
		ep := relay.stream("s/eth0").epochs[0]
		checkNumbered(t, ep.packets, 0, 1000)
		if len(ep.ends) != 1 || ep.ends[0].Final {
			t.Errorf("ends %+v", ep.ends)
		}
	})
}

func TestStoppingDoesNotWaitForARelayThatIsGone(t *testing.T) {
	for name, prepare := range map[string]func(*fakeRelay){
		"unreachable": func(r *fakeRelay) { r.Down = func(transport.Endpoint) error { return errors.New("no route") } },
		"mute":        func(r *fakeRelay) { r.Silent = true },
		"refusing": func(r *fakeRelay) {
			r.Refuse = func(int, wire.Hello) *wire.Refusal { return &wire.Refusal{Code: wire.CodeForbidden} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			world(t, func(t *testing.T, relay *fakeRelay) {
				prepare(relay)
				ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
				defer stop()
				a := testAgent(t, relay, map[string]capture.Source{
					"eth0": interfaceOf(func(sink capture.Sink) { packets(sink, 0, 1000, 1400) }),
				})
				began := time.Now()
				if err := a.Run(ctx); err == nil || !strings.Contains(err.Error(), "1000 packets are lost") {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began) - 10*time.Second; took > 5*time.Second {
					t.Errorf("stopping took %v", took)
				}
				if status := a.Status()[0]; status.Queued != 1000 {
					t.Errorf("status %+v", status)
				}
				relay.wait()
			})
		})
	}
}

func TestFiniteCapturesThatBlockAreStopped(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Silent = true
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		a := testAgent(t, relay, map[string]capture.Source{"file": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
			sink := open(ethernet)
			for i := 0; ctx.Err() == nil; i++ {
				packets(sink, i, 1, 60000)
			}
			return ctx.Err()
		})})
		if err := a.Run(ctx); err == nil || !strings.Contains(err.Error(), "stopped before it was delivered") {
			t.Errorf("got %v", err)
		}
		status := a.Status()[0]
		closes(t, status)
		if status.LostPackets() != 0 || status.QueuedBytes > 65<<20 {
			t.Errorf("status %+v", status)
		}
		relay.wait()
	})
}

func TestMistakeInACaptureShowsBeforeAnyRuns(t *testing.T) {
	a := testAgent(t, newFakeRelay(t), map[string]capture.Source{"file": file(1, 60)})
	a.Source = func(CaptureConfig) (capture.Source, error) { return nil, errors.New("no such filter") }
	if err := a.Run(t.Context()); err == nil || err.Error() != "capture file: no such filter" {
		t.Errorf("got %v", err)
	}
}

func TestTwoCapturesCannotMakeOneStream(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{
			"file.0": file(1, 60),
			"file": sourceFunc(func(ctx context.Context, open func(capture.Info) capture.Sink) error {
				time.Sleep(time.Second)
				open(capture.Info{Sub: "0", LinkType: 1, Snaplen: 1})
				return ctx.Err()
			}),
		})
		if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "there is a stream s/file.0 already") {
			t.Errorf("got %v", err)
		}
		relay.wait()
	})
}
