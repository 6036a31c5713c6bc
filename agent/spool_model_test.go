package agent

import (
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"poip/internal/wire"
)

// A spoolTest runs a queue and its spool against the model of a relay, through
// stops and crashes of the agent. The spool's rounds are actions: no goroutine
// of its own runs.
type spoolTest struct {
	queueTest
	t     *testing.T
	dir   string
	share int64
	limit int64 // of memory
	how   Overflow
	spool *spool

	counted map[wire.Epoch]uint64            // packets of each epoch, kernel drops included
	ends    map[wire.Epoch]wire.PacketNumber // of those that were cut short: where they may end at most
}

func (m *spoolTest) start(t *rapid.T) {
	m.q = newQueue(newMemory(m.limit), m.how)
	c := spoolConfig{share: &diskShare{limit: m.share}, overflow: m.how, sync: SyncBatch}
	var err error
	m.spool, err = openSpool(m.dir, newTestDisk(m.t, m.dir, new(atomic.Int64)), m.q, c, "s/eth0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m.begin()
}

// count notes what the open epoch has come to.
func (m *spoolTest) count() {
	m.sink.Flush()
	m.q.mu.Lock()
	defer m.q.mu.Unlock()
	m.counted[m.open.hello.Epoch] = uint64(m.open.next)
}

func (m *spoolTest) Restart(t *rapid.T) {
	m.count()
	m.queueTest.Restart(t)
}

// Round is one of the spool, and what the journal does after it.
func (m *spoolTest) Round(t *rapid.T) {
	m.spool.all = rapid.Bool().Draw(t, "all")
	m.q.tick()
	m.spool.round()
	if rapid.Bool().Draw(t, "sync") {
		if err := m.spool.journal.Sync(); err != nil {
			t.Fatal(err)
		}
		m.spool.round()
	}
}

// Stop ends the agent in good order, and starts it again.
func (m *spoolTest) Stop(t *rapid.T) {
	m.count()
	m.q.close(m.open, false)
	m.q.end()
	m.Disconnect(t)
	m.spool.finish()
	if !m.spool.safe {
		t.Fatal("not everything is on disk")
	}
	m.start(t)
}

// Crash leaves of the agent what is on disk.
func (m *spoolTest) Crash(t *rapid.T) {
	m.count()
	m.Disconnect(t)
	left := filepath.Join(m.t.TempDir(), "left")
	if err := copyFolder(m.dir, left); err != nil {
		t.Fatal(err)
	}
	m.spool.reading.Lock()
	m.spool.closeReader()
	m.spool.reading.Unlock()
	m.spool.journal.Close()
	m.dir = left
	m.noteCrash()
	m.start(t)
}

// noteCrash: what is not over may end anywhere from here on.
func (m *spoolTest) noteCrash() {
	m.q.mu.Lock()
	defer m.q.mu.Unlock()
	for _, ep := range m.q.epochs {
		if !ep.recovered {
			m.ends[ep.hello.Epoch] = ep.next
		}
	}
}

func (m *spoolTest) Connect(t *rapid.T) {
	m.queueTest.Connect(t)
}

// Send reads back from disk where that is what comes next.
func (m *spoolTest) Send(t *rapid.T) {
	for range rapid.IntRange(1, 10).Draw(t, "sends") {
		m.send(t)
	}
}

func (m *spoolTest) send(t *rapid.T) delivery {
	what := m.sendOne(t)
	if what == readSpool {
		if err := m.spool.load(m.session); err != nil {
			t.Fatal(err)
		}
	}
	return what
}

func (m *spoolTest) finish(t *rapid.T) {
	m.count()
	m.q.close(m.open, true)
	m.q.end()
	for !m.q.finished() {
		if m.session == nil {
			m.Connect(t)
		}
		for n, what := 0, m.send(t); what == sendItem || what == readSpool; n, what = n+1, m.send(t) {
			if n > 10_000 {
				d := m.session.disk
				t.Fatalf("it goes on for ever: of %d to %d, %+v", m.session.acked, m.session.next, d)
			}
		}
		m.arrive(t, len(m.relay.onWire))
		m.acknowledge(t)
	}
	m.spool.finish()
}

func (m *spoolTest) acknowledge(t *rapid.T) {
	if m.session == nil {
		return
	}
	ep := m.relay.current()
	if err := m.q.acknowledge(wire.Ack{Next: ep.at, Ended: ep.ended}); err != nil {
		t.Fatal(err)
	}
	if ep.ended {
		m.session = nil
	}
}

// judge: each epoch has come to its end, nothing came twice or late, and what
// did not come is in gaps.
func (m *spoolTest) judge(t *rapid.T) {
	var next uint64
	for _, ep := range m.relay.epochs {
		for _, id := range ep.got {
			if id < next {
				t.Fatalf("packet %d arrived twice or late", id)
			}
			next = id + 1
		}
		var lost uint64
		for _, n := range ep.lost {
			lost += n
		}
		if uint64(len(ep.got))+lost != uint64(ep.at) {
			t.Fatalf("%d packets arrived and %d are in gaps, of %d", len(ep.got), lost, ep.at)
		}
		if ep.lost[wire.CauseSpoolCorrupt] != 0 {
			t.Fatalf("%d packets were not found on disk", ep.lost[wire.CauseSpoolCorrupt])
		}
		if most, crashed := m.ends[ep.id]; crashed {
			if ep.at > most {
				t.Fatalf("an epoch that was cut short at %d ends at %d", most, ep.at)
			}
		} else if uint64(ep.at) != m.counted[ep.id] || !ep.ended {
			t.Fatalf("an epoch of %d packets arrived up to %d, ended %t", m.counted[ep.id], ep.at, ep.ended)
		} else if m.vanished[ep.id] != (ep.unknown > 0) {
			t.Fatalf("%d gaps of unknown count arrived, there were some: %t", ep.unknown, m.vanished[ep.id])
		}
	}
	for id, n := range m.counted {
		if _, crashed := m.ends[id]; n > 0 && !crashed && m.relay.find(id) == nil {
			t.Fatalf("%d: an epoch of %d packets never arrived", id[0], n)
		}
	}
}

func newSpoolTest(t *testing.T, rt *rapid.T) *spoolTest {
	m := &spoolTest{
		t: t, dir: filepath.Join(t.TempDir(), "spool"),
		limit:   rapid.SampledFrom([]int64{1 << 20, 2 << 20, 8 << 20}).Draw(rt, "memory"),
		share:   rapid.SampledFrom([]int64{4 << 20, 64 << 20}).Draw(rt, "spool"),
		how:     rapid.SampledFrom([]Overflow{OverflowDropOldest, OverflowDropNewest}).Draw(rt, "overflow"),
		counted: map[wire.Epoch]uint64{}, ends: map[wire.Epoch]wire.PacketNumber{},
	}
	m.vanished = map[wire.Epoch]bool{}
	m.begun = byte(rand.IntN(4))
	m.start(rt)
	rt.Cleanup(func() { m.spool.journal.Close() })
	return m
}

func (m *spoolTest) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"packets": m.Packets, "more packets": m.Packets, "flush": m.Flush, "kernel drop": m.KernelDrop, "vanish": m.Vanish, "restart": m.Restart,
		"connect": m.Connect, "send": m.Send, "arrive": m.Arrive, "disconnect": m.Disconnect,
		"round": m.Round, "stop": m.Stop, "crash": m.Crash,
		"": m.CheckChain,
	}
}

// nothingIsLeft of what was delivered, in memory or on disk.
func (m *spoolTest) nothingIsLeft(t *rapid.T) {
	total := m.q.totals()
	if total.held() != 0 || total.bytes != 0 || total.disk != 0 {
		t.Fatalf("in the end %d packets are held, %d on disk, and %d bytes", total.held(), total.disk, total.bytes)
	}
	m.spool, _ = openSpool(m.dir, newTestDisk(m.t, m.dir, new(atomic.Int64)), newQueue(newMemory(1<<20), m.how), spoolConfig{share: &diskShare{limit: m.share}}, "s/eth0", slog.New(slog.DiscardHandler))
	if m.q = m.spool.queue; m.q.hasEpoch() {
		t.Fatal("what was delivered is still on disk")
	}
}

func TestQueueWithASpoolLosesNothingUncounted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newSpoolTest(t, rt)
		rt.Repeat(m.actions())
		m.finish(rt)
		m.judge(rt)
		m.nothingIsLeft(rt)
	})
}

// TestTwoRelaysInTurnsAreToldAllOfIt: what each of them was told, the other one
// may not know of, and a recovered epoch's acks were for either.
func TestTwoRelaysInTurnsAreToldAllOfIt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newSpoolTest(t, rt)
		other := relayModel{late: true}
		m.relay.late = true
		actions := m.actions()
		actions["other relay"] = func(*rapid.T) {
			if m.session == nil {
				m.relay, other = other, m.relay
			}
		}
		rt.Repeat(actions)
		m.finish(rt)
		m.nothingIsLeft(rt)
	})
}

// CheckChain holds at every moment. (What of a recovered epoch is with the
// relay already shows only when it is read.)
func (m *spoolTest) CheckChain(t *rapid.T) {
	m.q.mu.Lock()
	defer m.q.mu.Unlock()
	var size, sent int64
	for _, ep := range m.q.epochs {
		var held uint64
		n, disks, fixed := firstOr(ep.head, ep.next), 0, true
		for it := ep.head; it != ep.fresh; it = it.next {
			sent += it.size()
		}
		for it := ep.head; it != nil; it = it.next {
			if it.first != n {
				t.Fatalf("item of %d at %d, want it at %d", it.count, it.first, n)
			}
			if it.fixed && !fixed {
				t.Fatal("a fixed item follows a loose one")
			}
			n, fixed, size, held = it.after(), it.fixed, size+it.size(), held+it.packets()
			if it.isDisk() {
				disks++
			}
			if it.next == nil && it != ep.tail {
				t.Fatal("the tail is not the last")
			}
		}
		if n != ep.next {
			t.Fatalf("the chain ends at %d, the epoch at %d", n, ep.next)
		}
		if disks > 1 || disks == 1 && ep.disk == nil || disks == 0 && ep.disk != nil {
			t.Fatalf("%d stretches on disk", disks)
		}
		if held != ep.ledger.held() {
			t.Fatalf("%d packets are held, the ledger says %d (recovered: %t)", held, ep.ledger.held(), ep.recovered)
		}
	}
	if size != m.q.size || size != m.q.memory.used.Load() {
		t.Fatalf("items take %d bytes, counted %d and %d", size, m.q.size, m.q.memory.used.Load())
	}
	if sent != m.q.sentSize || sent != m.q.memory.sent.Load() {
		t.Fatalf("sent items take %d bytes, counted %d and %d", sent, m.q.sentSize, m.q.memory.sent.Load())
	}
	if most := m.q.memory.limit + mostRead; size > most {
		t.Fatalf("items take %d bytes, more than %d", size, most)
	}
}
