package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"poip/internal/poiptest"
	"poip/internal/transport"
	"poip/internal/wire"
)

// soleStream is a queue with one open epoch and an uplink for it.
func soleStream(t *testing.T, relay *fakeRelay) (*uplink, *batcher, *poiptest.Log) {
	q := newQueue(newMemory(64<<20), OverflowDropOldest)
	said := new(poiptest.Log)
	u := newUplink(q, nil, slog.New(slog.NewTextHandler(said, nil)))
	u.endpoints, _ = ParseRelays("tls://one")
	u.open = relay.Open
	hello := wire.Hello{Version: wire.Version, Snaplen: 1, Stream: "s/eth0", Epoch: wire.Epoch{1}}
	return u, newBatcher(q, q.begin(hello), nil), said
}

// finish ends the stream for good.
func (b *batcher) finish() {
	b.Flush()
	b.queue.close(b.epoch, true)
	b.queue.end()
}

func TestRefusalsAreMetByTheirCode(t *testing.T) {
	for _, c := range []struct {
		code        wire.Code
		least, most time.Duration // until the next attempt
		level, says string
	}{
		{wire.CodeVersion, time.Minute, time.Minute, "ERROR", "update the older"},
		{wire.CodeForbidden, time.Minute, time.Minute, "ERROR", "certificate"},
		{wire.CodeFenced, 30 * time.Second, 30 * time.Second, "ERROR", "another agent uses the same identity and stream"},
		{wire.CodeLimit, 0, 250 * time.Millisecond, "WARN", "limits"},
		{wire.CodeDraining, 0, 250 * time.Millisecond, "INFO", "draining"},
		{wire.CodeProtocol, 0, 250 * time.Millisecond, "ERROR", "report"},
		{wire.CodeHole, 0, 250 * time.Millisecond, "ERROR", "report"},
		{wire.CodeCorrupt, 0, 250 * time.Millisecond, "ERROR", "report"},
		{wire.Code(77), 0, 250 * time.Millisecond, "WARN", "unknown"},
	} {
		t.Run(c.code.String(), func(t *testing.T) {
			world(t, func(t *testing.T, relay *fakeRelay) {
				var at []time.Time
				relay.Refuse = func(session int, _ wire.Hello) *wire.Refusal {
					at = append(at, time.Now())
					if session == 1 {
						return &wire.Refusal{Code: c.code, Reason: "because\n"}
					}
					return nil
				}
				u, sink, said := soleStream(t, relay)
				sink.finish()
				u.run(t.Context())
				relay.wait()
				if waited := at[1].Sub(at[0]); waited < c.least || waited > c.most {
					t.Errorf("tried again after %v, want %v to %v", waited, c.least, c.most)
				}
				if text := said.String(); !strings.Contains(text, "level="+c.level) || !strings.Contains(text, c.says) {
					t.Errorf("log says %s", text)
				}
			})
		})
	}
}

func TestDelaysGrowAndBeginAnewAfterAHealthySession(t *testing.T) {
	b := backoff{least: leastDelay, most: mostDelay}
	want := []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, 1, 2, 4, 8, 15, 15}
	for i, d := range want {
		if d < 100 {
			d *= time.Second
		}
		if got := b.step(); got != d {
			t.Errorf("delay %d is %v, want %v", i, got, d)
		}
	}
	b.reset()
	for range 100 {
		if d := b.jittered(); d < 0 || d >= mostDelay {
			t.Errorf("jittered %v", d)
		}
	}
	b.reset()
	if got := b.step(); got != leastDelay {
		t.Errorf("after a reset %v", got)
	}
}

func TestEndpointsAreTriedInOrder(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Down = func(ep transport.Endpoint) error {
			if ep.Scheme == "quic" {
				return errors.New("UDP is blocked")
			}
			return nil
		}
		relay.Refuse = func(session int, _ wire.Hello) *wire.Refusal {
			if session == 1 {
				return &wire.Refusal{Code: wire.CodeDraining}
			}
			return nil
		}
		relay.CutAt, relay.Cuts = 1, 2 // session 2 breaks after its first batch
		u, sink, _ := soleStream(t, relay)
		u.endpoints, _ = ParseRelays("quic://one", "tls://two", "tls://three")
		packets(sink, 0, 10, 60)
		sink.finish()
		began := time.Now()
		u.run(t.Context())
		relay.wait()
		var order []string
		for _, ep := range relay.dialed {
			order = append(order, ep.Host)
		}
		// One is blocked, two drains, three breaks; it proved nothing, so a
		// pause, then the list from its beginning.
		if got := strings.Join(order, " "); got != "one two three one two" {
			t.Errorf("dialed %s", got)
		}
		if took := time.Since(began); took > leastDelay {
			t.Errorf("it took %v", took)
		}
	})
}

// TestAnOldRefusalDoesNotDelay what follows a healthy session with another relay.
func TestAnOldRefusalDoesNotDelay(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Down = func(ep transport.Endpoint) error {
			if ep.Host == "one" {
				return wire.Refusal{Code: wire.CodeForbidden}
			}
			return nil
		}
		u, sink, _ := soleStream(t, relay)
		u.endpoints, _ = ParseRelays("tls://one", "tls://two")
		packets(sink, 0, 10, 60)
		sink.Flush()
		var broke time.Time
		time.AfterFunc(time.Hour, func() {
			broke = time.Now()
			relay.hangUp()
			packets(sink, 10, 10, 60)
			sink.finish()
		})
		u.run(t.Context())
		if took := time.Since(broke); took > leastDelay {
			t.Errorf("it took %v until packets were delivered again", took)
		}
		checkNumbered(t, relay.stream("s/eth0").epochs[0].packets, 0, 20)
	})
}

func TestTheWindowIsKept(t *testing.T) {
	for _, c := range []struct {
		window uint32
		most   int // bytes in flight
	}{{1 << 20, 1 << 20}, {100_000, 100_000}, {0, batchSize}} {
		world(t, func(t *testing.T, relay *fakeRelay) {
			relay.Ack.Window, relay.Silent = c.window, true
			sent := 0
			relay.OnFrame = func(typ wire.Type, payload []byte) {
				if typ == wire.TypeBatch {
					sent += len(payload) + wire.FrameHeaderLen
				}
			}
			u, sink, _ := soleStream(t, relay)
			packets(sink, 0, 3000, 1400)
			sink.Flush()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			u.run(ctx)
			relay.wait()
			if sent > c.most || sent < c.most-batchSize {
				t.Errorf("%d bytes in flight, window %d", sent, c.window)
			}
		})
	}
}

func TestADeadRelayIsNoticed(t *testing.T) {
	accepted := wire.AppendHelloAck(nil, wire.HelloAck{Version: 1, Window: 1 << 20, MaxBatch: wire.MaxBatchLen, Idle: 15000})
	for _, c := range []struct {
		name  string
		relay func(net.Conn)
	}{
		{"it does not answer the hello", func(conn net.Conn) { io.Copy(io.Discard, conn) }},
		{"it falls silent", func(conn net.Conn) {
			go conn.Write(accepted)
			io.Copy(io.Discard, conn)
		}},
		{"it reads no more", func(conn net.Conn) {
			takeHello(conn)
			for _, err := conn.Write(accepted); err == nil; _, err = conn.Write(wire.AppendAck(nil, wire.Ack{})) {
				time.Sleep(wire.SignOfLife)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			world(t, func(t *testing.T, relay *fakeRelay) {
				u, sink, _ := soleStream(t, relay)
				sink.Packet(1, 0, 4, numbered(0, 4))
				sink.Flush()
				u.open = func(context.Context, transport.Endpoint) (transport.Conn, error) { return connTo(c.relay), nil }
				began := time.Now()
				_, err := u.attempt(t.Context(), u.endpoints[0])
				if took := time.Since(began); took < wire.Idle || took > wire.Idle+lastWords || err == nil || !strings.Contains(err.Error(), "the link is dead") {
					t.Errorf("after %v: %v", took, err)
				}
				time.Sleep(wire.SignOfLife) // for the relay to notice
			})
		})
	}
}

func TestSignsOfLifeAreSentAndTaken(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		u, sink, _ := soleStream(t, relay)
		sink.Packet(1, 0, 4, numbered(0, 4))
		sink.Empty()
		sink.Lost(5, wire.CauseKernelDrop)
		ctx, cancel := context.WithTimeout(t.Context(), 61*time.Second)
		defer cancel()
		u.run(ctx)
		stats := relay.stream("s/eth0").epochs[0].stats
		if relay.sessions != 1 || len(stats) != 13 {
			t.Errorf("in a quiet minute %d statistics in %d sessions", len(stats), relay.sessions)
		}
		if s := stats[0]; s.Captured != 6 || s.QueuedPackets != 1 {
			t.Errorf("statistics at the beginning: %+v", s)
		}
		want := wire.Stats{SentAt: stats[1].SentAt, Captured: 6, Lost: 5, Empty: 1}
		if stats[1] != want {
			t.Errorf("statistics %+v, want %+v", stats[1], want)
		}
		if gap := stats[1].SentAt - stats[0].SentAt; gap != int64(wire.SignOfLife) {
			t.Errorf("%v from one to the next", time.Duration(gap))
		}
	})
}

func TestAStreamThatIsHeldStaysConnected(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Hold, relay.Ack.Window = true, 100_000
		u, sink, _ := soleStream(t, relay)
		packets(sink, 0, 1000, 1400)
		sink.Flush()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		u.run(ctx)
		if n := len(relay.stream("s/eth0").epochs[0].packets); relay.sessions != 1 || n == 0 || n > 71 {
			t.Errorf("%d packets in %d sessions", n, relay.sessions)
		}
	})
}

func TestABusySessionSendsStatisticsToo(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		u, sink, _ := soleStream(t, relay)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 20000 {
				packets(sink, i, 1, 1400)
				sink.Flush()
				time.Sleep(time.Millisecond)
			}
			sink.finish()
		}()
		u.run(t.Context())
		<-done
		if n := len(relay.stream("s/eth0").epochs[0].stats); n < 5 || n > 6 {
			t.Errorf("%d statistics in 20 s", n)
		}
	})
}

func TestIdleOfTheRelayIsKept(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Ack.Idle, relay.Silent = 3000, true
		u, _, _ := soleStream(t, relay)
		began := time.Now()
		_, err := u.attempt(t.Context(), u.endpoints[0])
		if took := time.Since(began); err == nil || took != 3*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		if n := len(relay.stream("s/eth0").epochs[0].stats); n < 3 || n > 4 {
			t.Errorf("%d statistics in 3 s", n)
		}
	})
}

func TestARelayThatBreaksTheProtocolIsLeft(t *testing.T) {
	good := wire.HelloAck{Version: 1, MaxBatch: wire.MaxBatchLen, Idle: 15000}
	with := func(change func(*wire.HelloAck)) []byte {
		ack := good
		change(&ack)
		return wire.AppendHelloAck(nil, ack)
	}
	accepted := wire.AppendHelloAck(nil, good)
	for _, c := range []struct {
		name  string
		bytes []byte
	}{
		{"garbage", []byte("HTTP/1.1 400 Bad Request\r\n\r\n")},
		{"a batch", []byte{4, 0, 0, 0, 33, 0, 0, 0, 1}},
		{"a hello", wire.AppendHello(nil, wire.Hello{Version: 1, Snaplen: 1})},
		{"version 2", with(func(a *wire.HelloAck) { a.Version = 2 })},
		{"small batches", with(func(a *wire.HelloAck) { a.MaxBatch = wire.LeastMaxBatch - 1 })},
		{"no patience", with(func(a *wire.HelloAck) { a.Idle = 10 })},
		{"eternal patience", with(func(a *wire.HelloAck) { a.Idle = 1 << 31 })},
		{"a position beyond", with(func(a *wire.HelloAck) { a.Position = 1 })},
		{"an ack beyond", wire.AppendAck(accepted[:len(accepted):len(accepted)], wire.Ack{Next: 1 << 40})},
		{"an end that was not", wire.AppendAck(accepted[:len(accepted):len(accepted)], wire.Ack{Ended: true})},
		{"two hello-acks", append(accepted[:len(accepted):len(accepted)], accepted...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			world(t, func(t *testing.T, _ *fakeRelay) {
				u, sink, _ := soleStream(t, newFakeRelay(t))
				u.open = func(context.Context, transport.Endpoint) (transport.Conn, error) { return connTo(saying(c.bytes)), nil }
				_, err := u.attempt(t.Context(), u.endpoints[0])
				if !errors.Is(err, wire.ErrMalformed) {
					t.Errorf("got %v", err)
				}
				sink.finish()
			})
		})
	}
}

// FuzzRelay is a relay that says anything at all. The agent must not panic,
// and its ledger must close.
func FuzzRelay(f *testing.F) {
	accepted := wire.AppendHelloAck(nil, wire.HelloAck{Version: 1, Window: 1 << 20, MaxBatch: wire.MaxBatchLen, Idle: 15000})
	f.Add(accepted)
	f.Add(wire.AppendAck(wire.AppendAck(accepted, wire.Ack{Next: 3}), wire.Ack{Next: 10, Ended: true}))
	f.Add(wire.AppendRefusal(nil, wire.Refusal{Code: wire.CodeFenced, Reason: "\x1b"}))
	f.Fuzz(func(t *testing.T, said []byte) {
		u, sink, _ := soleStream(t, newFakeRelay(t))
		packets(sink, 0, 10, 60)
		sink.finish()
		u.open = func(context.Context, transport.Endpoint) (transport.Conn, error) { return connTo(saying(said)), nil }
		u.attempt(t.Context(), u.endpoints[0])
		total := u.queue.totals()
		if total.captured != 10 || total.acknowledged > 10 || total.held() > 10 {
			t.Errorf("ledger %+v", total)
		}
	})
}

func TestSameTroubleIsSaidOnceAMinute(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.Down = func(transport.Endpoint) error { return errors.New("no route") }
		u, _, said := soleStream(t, relay)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		u.run(ctx)
		if n := strings.Count(said.String(), "no route"); n < 8 || n > 11 {
			t.Errorf("said %d times in ten minutes", n)
		}
		if l := u.link; l.state != StateWaiting || l.trouble != "no route" {
			t.Errorf("link %+v", l)
		}
	})
}

// TestTroubleOfSeveralEndpointsIsSaidOnceAMinute: also where each connection
// makes another text of it.
func TestTroubleOfSeveralEndpointsIsSaidOnceAMinute(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		var dials int
		relay.Down = func(transport.Endpoint) error {
			dials++
			return fmt.Errorf("read tcp 192.0.2.7:%d->192.0.2.1:57011: reset", 40000+dials)
		}
		u, _, said := soleStream(t, relay)
		u.endpoints, _ = ParseRelays("tls://one", "quic://two")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		u.run(ctx)
		if n := strings.Count(said.String(), "reset"); n < 16 || n > 22 {
			t.Errorf("said %d times in ten minutes, of %d dials", n, dials)
		}
	})
}

func TestARefusalIsHeardWhileTheAgentWrites(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		relay.RefuseAt = &wire.Refusal{Code: wire.CodeFenced, Reason: "a newer session took over"}
		u, sink, _ := soleStream(t, relay)
		packets(sink, 0, 3000, 1400)
		sink.finish()
		_, err := u.attempt(t.Context(), u.endpoints[0])
		if codeOf(err) != wire.CodeFenced {
			t.Errorf("got %v", err)
		}
		relay.wait()
	})
}

func TestLossesAreLogged(t *testing.T) {
	world(t, func(t *testing.T, relay *fakeRelay) {
		u, sink, said := soleStream(t, relay)
		sink.Lost(5, wire.CauseKernelDrop)
		go func() {
			time.Sleep(10 * time.Second)
			sink.Lost(7, wire.CauseKernelDrop)
			sink.Lost(1, wire.CauseSpoolOverflow)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		u.run(ctx)
		relay.wait()
		text := said.String()
		if strings.Count(text, "packets were lost") != 2 || !strings.Contains(text, "kernel_drop=5\n") || !strings.Contains(text, "kernel_drop=7 spool_overflow=1\n") {
			t.Errorf("log says %s", text)
		}
	})
}
