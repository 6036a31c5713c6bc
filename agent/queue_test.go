package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A relayModel is the other end of a queue as simple as can be: it takes
// frames in order and remembers, for each epoch, what became of each number.
type relayModel struct {
	epochs []*epochModel
	at     *epochModel // of the connection
	onWire [][]byte    // frames sent and not yet arrived
	late   bool        // others may have taken what came before
}

type epochModel struct {
	id      wire.Epoch
	got     []uint64 // the identities of packets that arrived, in order
	lost    [causes]uint64
	unknown int // gaps of unknown count
	at      wire.PacketNumber
	ended   bool
	wanted  wire.PacketNumber // as the end said
}

func (r *relayModel) current() *epochModel { return r.at }

func (r *relayModel) find(id wire.Epoch) *epochModel {
	for _, ep := range r.epochs {
		if ep.id == id {
			return ep
		}
	}
	return nil
}

// hello says where an epoch stands.
func (r *relayModel) hello(t *rapid.T, h wire.Hello) wire.PacketNumber {
	if r.at = r.find(h.Epoch); r.at == nil {
		if h.Oldest != 0 && !r.late {
			t.Fatalf("a new epoch begins at %d", h.Oldest)
		}
		r.at = &epochModel{id: h.Epoch}
		r.epochs = append(r.epochs, r.at)
	}
	r.at.ended = false
	if r.late {
		r.at.at = max(r.at.at, h.Oldest)
	}
	if h.Oldest > r.current().at {
		t.Fatalf("the agent has forgotten %d to %d", r.current().at, h.Oldest)
	}
	return r.current().at
}

// take lets one frame arrive. Of a batch, only the first packets may.
func (r *relayModel) take(t *rapid.T, frame []byte, most int) {
	ep, payload := r.current(), frame[wire.FrameHeaderLen:]
	if wire.Type(frame[0]) == wire.TypeGap {
		g, err := wire.ParseGap(payload)
		if err != nil || g.First != ep.at {
			t.Fatalf("gap %+v at %d: %v", g, ep.at, err)
		}
		ep.at = g.Next()
		ep.lost[cell(g.Cause)] += g.Count
		if g.Count == 0 {
			ep.unknown++
		}
		return
	}
	header, records := payload[:wire.BatchHeaderLen], payload[wire.BatchHeaderLen:]
	if err := wire.VerifyBatch(header, records); err != nil {
		t.Fatal(err)
	}
	if h := wire.ParseBatchHeader(header); h.First != ep.at {
		t.Fatalf("batch begins at %d, want %d", h.First, ep.at)
	}
	for ; len(records) > 0 && most > 0; most-- {
		_, _, captured, _ := pcap.Record(records)
		ep.got = append(ep.got, binary.LittleEndian.Uint64(records[pcap.RecordHeaderLen:]))
		ep.at++
		records = records[pcap.RecordHeaderLen+captured:]
	}
}

// A queueTest runs a queue against the model.
type queueTest struct {
	q       *queue
	relay   relayModel
	sink    *batcher
	open    *epoch
	session *epoch // of the connection; nil when there is none

	identity uint64 // of the next packet
	kernel   uint64 // packets that the kernel dropped
	vanished map[wire.Epoch]bool
	begun    byte
}

func (m *queueTest) begin() {
	m.begun++
	m.open = m.q.begin(wire.Hello{Epoch: wire.Epoch{m.begun}})
	m.sink = newBatcher(m.q, m.open, nil)
}

func (m *queueTest) Packets(t *rapid.T) {
	n := rapid.IntRange(1, 30).Draw(t, "packets")
	length := rapid.SampledFrom([]int{8, 60, 1400, 9000, 65535, pcap.MaxCaptured}).Draw(t, "length")
	for range n {
		data := make([]byte, length)
		binary.LittleEndian.PutUint64(data, m.identity)
		m.sink.Packet(1, uint32(m.identity%1e9), uint32(length), data)
		m.identity++
	}
}

func (m *queueTest) Flush(*rapid.T) { m.sink.Flush() }

func (m *queueTest) KernelDrop(t *rapid.T) {
	n := rapid.Uint64Range(1, 100).Draw(t, "dropped")
	m.kernel += n
	m.sink.Lost(n, wire.CauseKernelDrop)
}

// Vanish is a loss of which nobody knows how much it was.
func (m *queueTest) Vanish(*rapid.T) {
	m.vanished[m.open.hello.Epoch] = true
	m.sink.Lost(0, wire.CauseCaptureRestart)
}

func (m *queueTest) Restart(*rapid.T) {
	m.sink.Flush()
	m.q.close(m.open, false)
	m.begin()
}

func (m *queueTest) Connect(t *rapid.T) {
	if m.session != nil {
		return
	}
	ep, hello := m.q.greet(0)
	if ep == nil {
		return
	}
	window := rapid.SampledFrom([]uint32{0, 100 << 10, 16 << 20}).Draw(t, "window")
	if err := m.q.resume(m.relay.hello(t, hello), window); err != nil {
		t.Fatal(err)
	}
	m.session = ep
}

func (m *queueTest) Send(t *rapid.T) {
	for range rapid.IntRange(1, 10).Draw(t, "sends") {
		m.sendOne(t)
	}
}

func (m *queueTest) sendOne(t *rapid.T) delivery {
	if m.session == nil {
		return nothing
	}
	what, it := m.q.take(m.session)
	switch what {
	case sendItem:
		if it.isGap() {
			m.relay.onWire = append(m.relay.onWire, wire.AppendGap(nil, it.gap()))
			break
		}
		if !it.sealed {
			it.seal()
		}
		m.relay.onWire = append(m.relay.onWire, bytes.Clone(it.frame))
	case sendEnd:
		m.relay.onWire = append(m.relay.onWire, wire.AppendEnd(nil, wire.End{Next: m.session.next, Final: m.session.final}))
	case epochOver:
		m.session = nil
	}
	return what
}

// Arrive lets some frames arrive and acknowledges what has.
func (m *queueTest) Arrive(t *rapid.T) {
	m.arrive(t, rapid.IntRange(0, len(m.relay.onWire)).Draw(t, "arriving"))
	if m.session == nil {
		return
	}
	ep := m.relay.current()
	ack := wire.Ack{Next: ep.at, Ended: ep.ended}
	if err := m.q.acknowledge(ack); err != nil {
		t.Fatal(err)
	}
	if ep.ended {
		m.session = nil
	}
}

func (m *queueTest) arrive(t *rapid.T, n int) {
	for _, frame := range m.relay.onWire[:n] {
		if wire.Type(frame[0]) == wire.TypeEnd {
			end, _ := wire.ParseEnd(frame[wire.FrameHeaderLen:])
			m.relay.current().ended, m.relay.current().wanted = true, end.Next
			continue
		}
		m.relay.take(t, frame, 1<<30)
	}
	m.relay.onWire = m.relay.onWire[n:]
}

// Disconnect loses what is on the wire, but for some of it, which may end in
// the midst of a batch.
func (m *queueTest) Disconnect(t *rapid.T) {
	if m.session == nil {
		return
	}
	m.arrive(t, rapid.IntRange(0, len(m.relay.onWire)).Draw(t, "arriving"))
	if rest := m.relay.onWire; len(rest) > 0 && wire.Type(rest[0][0]) == wire.TypeBatch {
		m.relay.take(t, rest[0], rapid.IntRange(0, 5).Draw(t, "packets that arrive"))
	}
	m.relay.onWire, m.session = nil, nil
}

// Check holds at every moment.
func (m *queueTest) Check(t *rapid.T) {
	m.q.mu.Lock()
	defer m.q.mu.Unlock()
	var size, held int64
	total := m.q.past
	for _, ep := range m.q.epochs {
		total.add(ep.ledger)
		n := firstOr(ep.head, ep.next)
		for it := ep.head; it != nil; it = it.next {
			if it.first != n || it.count == 0 && !it.isGap() {
				t.Fatalf("item of %d at %d, want it at %d", it.count, it.first, n)
			}
			n = it.after()
			size += it.size()
			if !it.isGap() {
				held += int64(it.count)
			}
			if it.next == nil && it != ep.tail {
				t.Fatal("the tail is not the last")
			}
		}
		if n != ep.next {
			t.Fatalf("the chain ends at %d, the epoch at %d", n, ep.next)
		}
	}
	if size != m.q.size || size != m.q.memory.used.Load() {
		t.Fatalf("items take %d bytes, counted %d and %d", size, m.q.size, m.q.memory.used.Load())
	}
	if size > m.q.memory.limit && size > largestFrame+itemOverhead {
		t.Fatalf("items take %d bytes of %d", size, m.q.memory.limit)
	}
	if total.held() != uint64(held) {
		t.Fatalf("%d packets are held, the ledger says %d", held, total.held())
	}
}

// finish delivers everything that is left.
func (m *queueTest) finish(t *rapid.T) {
	m.sink.Flush()
	m.q.close(m.open, true)
	m.q.end()
	for !m.q.finished() {
		if m.session == nil {
			m.Connect(t)
		}
		for m.sendOne(t) == sendItem {
			continue
		}
		m.arrive(t, len(m.relay.onWire))
		if m.session != nil {
			ep := m.relay.current()
			if err := m.q.acknowledge(wire.Ack{Next: ep.at, Ended: ep.ended}); err != nil {
				t.Fatal(err)
			}
			if ep.ended {
				m.session = nil
			}
		}
	}
}

func (m *queueTest) judge(t *rapid.T) {
	var got, next uint64
	var lost [causes]uint64
	for _, ep := range m.relay.epochs {
		if ep.at != ep.wanted {
			t.Fatalf("an epoch of %d packets arrived up to %d", ep.wanted, ep.at)
		}
		if m.vanished[ep.id] != (ep.unknown > 0) {
			t.Fatalf("%d gaps of unknown count arrived, there were some: %t", ep.unknown, m.vanished[ep.id])
		}
		for _, id := range ep.got {
			if id < next {
				t.Fatalf("packet %d arrived twice or late", id)
			}
			next = id + 1
		}
		got += uint64(len(ep.got))
		for i, n := range ep.lost {
			lost[i] += n
		}
	}
	if overflow := lost[wire.CauseSpoolOverflow]; got+overflow != m.identity || lost[wire.CauseKernelDrop] != m.kernel {
		t.Fatalf("captured %d, %d arrived and %d overflowed; the kernel dropped %d, gaps say %d",
			m.identity, got, overflow, m.kernel, lost[wire.CauseKernelDrop])
	}
	total := m.q.totals()
	if total.captured != m.identity+m.kernel || total.acknowledged != got || total.lost != lost || total.bytes != 0 {
		t.Fatalf("the ledger says %+v; %d captured, %d arrived, lost %v", total, m.identity+m.kernel, got, lost)
	}
}

func TestQueueLosesNothingUncounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int64{1 << 10, 200 << 10, 1 << 20, 8 << 20}).Draw(t, "memory")
		m := &queueTest{q: newQueue(newMemory(limit), OverflowDropOldest), vanished: map[wire.Epoch]bool{}}
		m.begin()
		t.Repeat(map[string]func(*rapid.T){
			"packets": m.Packets, "flush": m.Flush, "kernel drop": m.KernelDrop, "vanish": m.Vanish, "restart": m.Restart,
			"connect": m.Connect, "send": m.Send, "arrive": m.Arrive, "disconnect": m.Disconnect,
			"": m.Check,
		})
		m.finish(t)
		m.judge(t)
	})
}

func TestOverflowDropsTheOldestIntoOneGap(t *testing.T) {
	q := newQueue(newMemory(4*(batchSize+itemOverhead)), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	sink := newBatcher(q, ep, nil)
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen) // a batch each
	for i := range 10 {
		sink.Packet(uint32(i+1), 0, uint32(len(data)), data)
		sink.Flush()
	}
	accept(t, q, 1<<30)
	_, it := q.take(ep)
	if want := (wire.Gap{First: 0, Count: 6, Cause: wire.CauseSpoolOverflow, Earliest: 1e9, Latest: 6e9}); it.gap() != want {
		t.Errorf("gap %+v, want %+v", it.gap(), want)
	}
	if _, it = q.take(ep); it.isGap() || it.first != 6 {
		t.Errorf("after the gap comes %+v", it)
	}
	if lost := q.totals().lost[wire.CauseSpoolOverflow]; lost != 6 {
		t.Errorf("counted %d lost", lost)
	}
}

func TestGapsOfSeveralCausesMergeByCause(t *testing.T) {
	q := newQueue(newMemory(2*(batchSize+itemOverhead)), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	sink := newBatcher(q, ep, nil)
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen)
	for range 100 {
		sink.Packet(1, 0, uint32(len(data)), data)
		sink.Lost(3, wire.CauseKernelDrop)
	}
	items := 0
	for it := ep.head; it != nil; it = it.next {
		items++
	}
	if items > 6 {
		t.Errorf("%d items stand for two batches and their gaps", items)
	}
	if total := q.totals(); total.lost[wire.CauseKernelDrop] != 300 || total.held() != 2 || total.captured != 400 {
		t.Errorf("counted %+v", total.ledger)
	}
}

// accept has a relay that has nothing take the oldest epoch.
func accept(t testing.TB, q *queue, window uint32) {
	t.Helper()
	q.greet(0)
	if err := q.resume(0, window); err != nil {
		t.Fatal(err)
	}
}

func TestFiniteCaptureWaitsForMemory(t *testing.T) {
	q := newQueue(newMemory(batchSize), OverflowBlock)
	ep := q.begin(wire.Hello{})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sink := newBatcher(q, ep, stop)
		for i := range 40 {
			sink.Packet(uint32(i), 0, 9000, make([]byte, 9000))
		}
		sink.Flush()
		q.close(ep, true)
	}()
	accept(t, q, 1<<30)
	next := wire.PacketNumber(0)
	for next < 40 {
		switch what, it := q.take(ep); what {
		case sendItem:
			if it.isGap() || it.first != next {
				t.Fatalf("got %+v at %d", it, next)
			}
			next = it.after()
			if err := q.acknowledge(wire.Ack{Next: next}); err != nil {
				t.Fatal(err)
			}
		case nothing:
			<-q.wake
		}
	}
	<-done
}

// TestFiniteCaptureDoesNotReadFarAhead: it waits while four batches are to be sent,
// whatever is on its way, and goes on when two of them have been.
func TestFiniteCaptureDoesNotReadFarAhead(t *testing.T) {
	const size = batchSize + itemOverhead
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(64 << 20)
		m.ahead = 4 * size
		q := newQueue(m, OverflowBlock)
		ep := q.begin(wire.Hello{})
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			sink := newBatcher(q, ep, stop)
			for range 40 {
				sink.Packet(1, 0, batchSize/2, make([]byte, batchSize/2)) // one fills a batch
			}
			sink.Flush()
		}()
		accept(t, q, 1<<30)
		sent := uint64(0)
		for _, want := range []struct{ sent, captured uint64 }{{0, 4}, {1, 4}, {2, 6}, {3, 6}, {4, 8}, {12, 16}} {
			for ; sent < want.sent; sent++ {
				if what, _ := q.take(ep); what != sendItem {
					t.Fatalf("delivery %d", what)
				}
				synctest.Wait()
			}
			synctest.Wait()
			if got := q.totals().captured; got != want.captured {
				t.Errorf("with %d sent, %d were captured, want %d", want.sent, got, want.captured)
			}
		}
		close(stop)
		<-done
	})
}

func TestAStoppedFiniteCaptureWaitsNoLonger(t *testing.T) {
	q := newQueue(newMemory(batchSize), OverflowBlock)
	stop := make(chan struct{})
	close(stop)
	sink := newBatcher(q, q.begin(wire.Hello{}), stop)
	for range 40 {
		sink.Packet(1, 0, 9000, make([]byte, 9000))
	}
	sink.Flush()
	if total := q.totals(); total.held() != 40 {
		t.Errorf("%d of 40 packets are held", total.held())
	}
}

func TestSmallBatchesGrowWhileNobodyTakesThem(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	sink := newBatcher(q, ep, nil)
	for range 100 {
		sink.Packet(1, 0, 60, make([]byte, 60))
		sink.Flush()
	}
	if ep.head != ep.tail || ep.head.count != 100 {
		t.Errorf("the first of several batches holds %d packets", ep.head.count)
	}
}

func TestFramesInFlightTakeTheMemoryTheyNeed(t *testing.T) {
	q := newQueue(newMemory(64<<20), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	accept(t, q, 16<<20)
	sink := newBatcher(q, ep, nil)
	for range 1000 { // as with latency = "low", and a relay far away
		sink.Packet(1, 0, 60, make([]byte, 60))
		sink.Flush()
		if what, _ := q.take(ep); what != sendItem {
			t.Fatal("nothing to send")
		}
	}
	if bytes := q.totals().bytes; bytes > 1000*(512+itemOverhead) {
		t.Errorf("1000 small frames take %d bytes", bytes)
	}
}

func TestPositionsAndAcksThatCannotBeAreRefused(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowDropOldest)
	if err := q.resume(0, 1); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("hello-ack without an epoch: %v", err)
	}
	if err := q.acknowledge(wire.Ack{}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("ack without an epoch: %v", err)
	}
	ep := q.begin(wire.Hello{})
	if err := q.resume(0, 1); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("hello-ack without a hello: %v", err)
	}
	newBatcher(q, ep, nil).Lost(10, wire.CauseKernelDrop)
	q.greet(0)
	if err := q.resume(1, 1); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("position of what was never sent: %v", err)
	}
	if err := q.resume(0, 1); err != nil {
		t.Fatal(err)
	}
	for _, a := range []wire.Ack{{Next: 1}, {Next: 0, Ended: true}, {Next: 1 << 63}} {
		if err := q.acknowledge(a); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%+v of what was never sent: %v", a, err)
		}
	}
	q.take(ep)
	if err := q.acknowledge(wire.Ack{Next: 10}); err != nil {
		t.Error(err)
	}
	q.greet(0)
	if err := q.resume(9, 1); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("position below what was acknowledged: %v", err)
	}
}

func TestEmptyEpochsOfACaptureThatFailsAreForgotten(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowDropOldest)
	for range 100 {
		q.close(q.begin(wire.Hello{}), false)
	}
	if len(q.epochs) != 1 {
		t.Errorf("%d epochs are kept", len(q.epochs))
	}
	q.end()
	if !q.finished() {
		t.Error("an epoch that nobody has heard of is still to be sent")
	}
}

func TestEmptyFiniteCaptureIsStillSaid(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowBlock)
	ep := q.begin(wire.Hello{})
	q.close(ep, true)
	q.end()
	accept(t, q, 1)
	if what, _ := q.take(ep); what != sendEnd {
		t.Errorf("delivery %d", what)
	}
	if err := q.acknowledge(wire.Ack{Ended: true}); err != nil || !q.finished() {
		t.Errorf("finished %t, %v", q.finished(), err)
	}
}

func TestWhatIsBeingWrittenIsNotRecycled(t *testing.T) {
	q := newQueue(newMemory(1<<20), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	accept(t, q, 1<<20)
	sink := newBatcher(q, ep, nil)
	sink.Packet(1, 2, 3, []byte{1, 2, 3})
	sink.Flush()
	_, it := q.take(ep)
	if err := q.acknowledge(wire.Ack{Next: 1}); err != nil { // before Write has returned
		t.Fatal(err)
	}
	if held := q.totals(); it.frame == nil || held.held() != 1 {
		t.Error("the frame was taken away from under the writer")
	}
	q.take(ep)
	if held := q.totals(); held.held() != 0 {
		t.Error("an acknowledged batch is kept")
	}
}

func TestOnlyHalfOfTheMemoryIsInFlight(t *testing.T) {
	q := newQueue(newMemory(8*(batchSize+itemOverhead)), OverflowDropOldest)
	ep := q.begin(wire.Hello{})
	accept(t, q, 1<<30)
	sink := newBatcher(q, ep, nil)
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen)
	for range 100 { // a link that is dead, and nobody knows yet
		sink.Packet(1, 0, uint32(len(data)), data)
		sink.Flush()
		for what := sendItem; what == sendItem; {
			what, _ = q.take(ep)
		}
	}
	sent, all := ep.sentTo(), ep.next
	if sent != 4 || all != 100 {
		t.Errorf("%d of %d are in flight, want 4", sent, all)
	}
	if newest := ep.tail; newest.isGap() || newest.first != 99 {
		t.Errorf("the newest that is kept is %+v", newest)
	}
}

// TestAllOfTheMemoryIsInFlightWhereNothingIsDropped: a relay that acknowledges
// what its disk has is sent more meanwhile.
func TestAllOfTheMemoryIsInFlightWhereNothingIsDropped(t *testing.T) {
	q := newQueue(newMemory(8*(batchSize+itemOverhead)), OverflowBlock)
	ep := q.begin(wire.Hello{})
	accept(t, q, 1<<30)
	sink := newBatcher(q, ep, nil)
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen)
	for range 8 {
		sink.Packet(1, 0, uint32(len(data)), data)
		sink.Flush()
		for what := sendItem; what == sendItem; {
			what, _ = q.take(ep)
		}
	}
	if sent := ep.sentTo(); sent != 8 {
		t.Errorf("%d of 8 are in flight", sent)
	}
}

// TestAStreamKeepsItsShareOfTheMemory while another one, which no relay takes,
// fills all of it.
func TestAStreamKeepsItsShareOfTheMemory(t *testing.T) {
	m := newMemory(16 * (batchSize + itemOverhead))
	stuck, healthy := newQueue(m, OverflowDropOldest), newQueue(m, OverflowDropOldest)
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen)
	fill := func(sink *batcher, n int) {
		for range n {
			sink.Packet(1, 0, uint32(len(data)), data)
			sink.Flush()
		}
	}
	stuckSink := newBatcher(stuck, stuck.begin(wire.Hello{}), nil)
	fill(stuckSink, 100)
	ep := healthy.begin(wire.Hello{})
	sink := newBatcher(healthy, ep, nil)
	fill(sink, 4)
	if n := ep.ledger.allLost(); n != 0 {
		t.Errorf("%d of 4 packets are lost", n)
	}
	fill(sink, 1)
	if n := ep.ledger.allLost(); n != 1 {
		t.Errorf("%d are lost, want 1: there is no more than a share", n)
	}
	fill(stuckSink, 1)
	if used := m.used.Load(); used > m.limit {
		t.Errorf("%d bytes are used of %d", used, m.limit)
	}
}

// TestStreamsTogetherSendHalfOfTheMemory, and each of them goes on by its own
// acknowledgments.
func TestStreamsTogetherSendHalfOfTheMemory(t *testing.T) {
	m := newMemory(32 * (batchSize + itemOverhead))
	data := make([]byte, batchSize-wire.BatchPrefixLen-pcap.RecordHeaderLen)
	send := func(q *queue, ep *epoch) int {
		for {
			if what, _ := q.take(ep); what != sendItem {
				return int(ep.sentTo())
			}
		}
	}
	streams := make([]*queue, 2)
	for i := range streams {
		streams[i] = newQueue(m, OverflowDropOldest)
	}
	for i, want := range []int{16, 2} {
		q := streams[i]
		ep := q.begin(wire.Hello{})
		sink := newBatcher(q, ep, nil)
		for range 14 + 2*(1-i) {
			sink.Packet(1, 0, uint32(len(data)), data)
			sink.Flush()
		}
		accept(t, q, 1<<30)
		if sent := send(q, ep); sent != want {
			t.Errorf("stream %d: %d are in flight, want %d", i, sent, want)
		}
	}
	q := streams[1]
	ep := q.epochs[0]
	for next := wire.PacketNumber(1); next < 10; next++ {
		if err := q.acknowledge(wire.Ack{Next: next}); err != nil {
			t.Fatal(err)
		}
		if sent := send(q, ep); sent != int(next)+2 {
			t.Fatalf("%d are sent after %d were acknowledged", sent, next)
		}
	}
}

// TestStreamsShareWhatTheyKeepForTheNextFrames: a file may have hundreds.
func TestStreamsShareWhatTheyKeepForTheNextFrames(t *testing.T) {
	m := newMemory(64 << 20)
	kept := 0
	for range maxStreams {
		q := newQueue(m, OverflowDropOldest)
		for range 100 {
			q.buffers.put(make([]byte, 0, batchSize))
		}
		kept += q.buffers.bytes
	}
	if kept > 8*maxFree {
		t.Errorf("%d bytes are kept", kept)
	}
}
