package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"poip/auth"
	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/transport"
	"poip/internal/wire"
)

func TestWhatIsSentAgainIsDroppedAndAcknowledged(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	r := w.analyst(w.address("p"))
	a := w.agent("s/c")
	a.packets("one", "two")
	a.packets("three")
	a.acked(3)
	a.next = 0
	a.packets("one", "two")
	a.packets("three")
	a.packets("four")
	a.acked(4)
	r.header()
	r.want("one", "two", "three", "four")
	if s := w.streamStatus("s/c"); s.Received != 4 || s.Duplicates != 3 {
		t.Errorf("received %d, duplicates %d", s.Received, s.Duplicates)
	}
}

func TestRefusals(t *testing.T) {
	hello := wire.AppendHello(nil, greeting1("s/c"))
	good := batchOf(0, "one", "two", "three")
	corrupt := bytes.Clone(good)
	corrupt[len(corrupt)-1]++
	miscounted := bytes.Clone(good)
	wire.SealBatch(miscounted, wire.BatchHeader{First: 0, Count: 2})
	overflowing := bytes.Clone(good)
	wire.SealBatch(overflowing, wire.BatchHeader{First: ^wire.PacketNumber(0), Count: 3})
	joined := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	named := func(name string) []byte { return wire.AppendHello(nil, greeting1(name)) }
	ended := joined(hello, good, wire.AppendEnd(nil, wire.End{Next: 3}))
	for _, c := range []struct {
		name   string
		frames []byte
		want   wire.Code
	}{
		{"hole", joined(hello, batchOf(1, "two")), wire.CodeHole},
		{"gap behind a hole", joined(hello, wire.AppendGap(nil, wire.Gap{First: 5, Count: 1})), wire.CodeHole},
		{"unknown gap behind a hole", joined(hello, wire.AppendGap(nil, wire.Gap{First: 5})), wire.CodeHole},
		{"straddling", joined(hello, good, batchOf(2, "three", "four")), wire.CodeProtocol},
		{"straddling gap", joined(hello, good, wire.AppendGap(nil, wire.Gap{First: 2, Count: 2})), wire.CodeProtocol},
		{"overflowing gap", joined(hello, wire.AppendGap(nil, wire.Gap{First: 2, Count: 1<<64 - 1})), wire.CodeProtocol},
		{"CRC", joined(hello, corrupt), wire.CodeCorrupt},
		{"count", joined(hello, miscounted), wire.CodeCorrupt},
		{"overflow", joined(hello, overflowing), wire.CodeProtocol},
		{"batch before hello", good, wire.CodeProtocol},
		{"statistics before hello", wire.AppendStats(nil, wire.Stats{}), wire.CodeProtocol},
		{"hello within an epoch", joined(hello, hello), wire.CodeProtocol},
		{"batch between epochs", joined(ended, batchOf(3, "four")), wire.CodeProtocol},
		{"end too early", joined(hello, wire.AppendEnd(nil, wire.End{Next: 1})), wire.CodeProtocol},
		{"another stream", joined(ended, named("s/d")), wire.CodeProtocol},
		{"another sensor", named("t/c"), wire.CodeForbidden},
		{"no name", named("s"), wire.CodeProtocol},
		{"hostile name", named("s/..\x1b[2J"), wire.CodeProtocol},
		{"our own frames", joined(hello, wire.AppendAck(nil, wire.Ack{})), wire.CodeProtocol},
		{"unknown type", []byte{99, 0, 0, 0, 0, 0, 0, 0}, wire.CodeProtocol},
		{"four gigabytes", []byte{4, 0, 0, 0, 255, 255, 255, 255}, wire.CodeProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			a := w.dial("s")
			a.t = t
			a.send(c.frames)
			if got := a.refused(); got.Code != c.want {
				t.Errorf("refused with %v, want %v", got, c.want)
			}
			w.eventually("the session to end", func() bool { return w.streamStatus("s/c").State != "live" })
			if strings.Contains(w.logs.String(), "\x1b") {
				t.Error("the agent's bytes are in the log as they are")
			}
		})
	}
}

func TestGapsAreCounted(t *testing.T) {
	w := newWorld(t, nil)
	a := w.agent("s/c")
	a.packets("one")
	a.gap(10, wire.CauseKernelDrop)
	a.gap(0, wire.CauseAgentCrash)
	a.gap(0, wire.CauseAgentCrash) // the same, sent again
	a.packets("two")
	a.gap(3, wire.Cause(77))
	a.gap(0, wire.CauseAgentCrash)
	a.acked(15)
	a.next = 1
	a.gap(10, wire.CauseKernelDrop) // sent again
	a.next = 15
	a.packets("three")
	a.acked(16)
	s := w.streamStatus("s/c")
	if s.Received != 3 || s.Lost["kernel_drop"] != 10 || s.Lost["unknown"] != 3 || s.Unknown["agent_crash"] != 2 || s.Position != 16 {
		t.Errorf("%+v", s)
	}
}

func TestEpochsResume(t *testing.T) {
	w := newWorld(t, nil)
	epoch := func(b byte, oldest wire.PacketNumber) func(*wire.Hello) {
		return func(h *wire.Hello) { h.Epoch, h.Oldest = epochOf(b), oldest }
	}
	a := w.agent("s/c", epoch(1, 0))
	a.packets("one", "two")
	a.acked(2)
	a.conn.Close()

	if a = w.agent("s/c", epoch(1, 1)); a.next != 2 {
		t.Errorf("a known epoch resumes at %d", a.next)
	}
	a.end(false)
	if ack := a.hello("s/c", epoch(2, 5)); ack.Position != 5 {
		t.Errorf("an epoch that another relay knew resumes at %d", ack.Position)
	}
	a.next = 5
	a.packets("six")
	a.acked(6)
	a.conn.Close()

	if a = w.agent("s/c", epoch(1, 2)); a.next != 2 {
		t.Errorf("an older epoch resumes at %d", a.next)
	}
	a.conn.Close()
	if a = w.agent("s/c", epoch(2, 9)); a.next != 9 {
		t.Errorf("an epoch that has moved on resumes at %d", a.next)
	}
	if got := w.streamStatus("s/c").Lost["relay_restart"]; got != 5+3 {
		t.Errorf("%d packets lost to the restart, want 8", got)
	}
	a.conn.Close()
	for i := range byte(keptEpochs) {
		a = w.agent("s/c", epoch(10+i, 0))
		a.conn.Close()
	}
	if a = w.agent("s/c", epoch(1, 0)); a.next != 0 {
		t.Errorf("an epoch that is forgotten resumes at %d", a.next)
	}
}

func TestANewerSessionFencesTheOlder(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	r := w.analyst(w.address("p"))
	first := w.agent("s/c")
	first.packets("one")
	first.acked(1)
	half := batchOf(1, "half of this", "comes")
	first.send(half[:len(half)-8])
	second := w.agent("s/c")
	if second.next != 1 {
		t.Errorf("the newer session resumes at %d", second.next)
	}
	if got := first.refused(); got.Code != wire.CodeFenced {
		t.Errorf("the older session was told %v", got)
	}
	second.packets("two")
	second.acked(2)
	r.header()
	r.want("one", "two")
	if s := w.streamStatus("s/c"); s.Fenced != 1 || s.State != "live" || s.Received != 2 {
		t.Errorf("%+v", s)
	}
}

func TestClonesTakeTurns(t *testing.T) {
	w := newWorld(t, nil)
	clones := make([]*agent, 8)
	for i := range clones {
		clones[i] = w.dial("s")
		go clones[i].conn.Write(wire.AppendHello(nil, greeting1("s/c")))
	}
	won := 0
	for _, a := range clones {
		switch h, _ := a.receive(); h.Type {
		case wire.TypeHelloAck:
			won++
		case wire.TypeRefusal: // fenced before it was answered
		default:
			t.Errorf("answer to hello: type %d", h.Type)
		}
	}
	if won == 0 {
		t.Error("nobody was let in")
	}
	last := w.agent("s/c")
	last.packets("one")
	last.acked(1)
}

func TestStreamsAreLimited(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Intake.MaxStreamsPerSensor, c.Intake.MaxStreams = 2, 3 })
	one := w.agent("s/one")
	w.agent("s/two")
	refused := func(stream string) wire.Code {
		a := w.dial(strings.Split(stream, "/")[0])
		a.send(wire.AppendHello(nil, greeting1(stream)))
		return a.refused().Code
	}
	if got := refused("s/three"); got != wire.CodeLimit {
		t.Errorf("a third stream of the sensor: %v", got)
	}
	w.agent("t/one")
	if got := refused("u/one"); got != wire.CodeLimit {
		t.Errorf("a fourth stream: %v", got)
	}
	one.conn.Close()
	w.eventually("the stream to be offline", func() bool { return w.streamStatus("s/one").State == "offline" })
	if got := refused("s/three"); got != wire.CodeLimit {
		t.Errorf("while one was just here: %v", got)
	}
	w.mu.Lock()
	w.forgetting = 0
	w.mu.Unlock()
	w.agent("s/three")
	if w.streamStatus("s/one").Sensor != "" {
		t.Error("the stream that was offline is still known")
	}
}

// link is a transport.Conn over any net.Conn, without TLS.
type link struct {
	*transport.Cork
}

func newLink(conn net.Conn) link {
	cork := transport.NewCork(conn, transport.GatherSize)
	cork.Gather(true)
	return link{Cork: cork}
}

func (link) TLS() tls.ConnectionState { return tls.ConnectionState{} }
func (link) Network() string          { return "tls" }
func (link) Congestion() string       { return "" }

// ending is how and when a session ended.
type ending struct {
	err error
	at  time.Time
}

// pipeSession runs a session on a pipe.
func pipeSession(t *testing.T) (*agent, *session, chan ending) {
	near, far := net.Pipe()
	s, ended := sessionOn(newLink(far))
	return &agent{t: t, conn: near, r: bufio.NewReader(near)}, s, ended
}

func sessionOn(conn transport.Conn) (*session, chan ending) {
	st := &stream{name: auth.StreamName{Sensor: "s", Capture: "c"}, log: slog.New(slog.DiscardHandler)}
	s := &session{
		conn: conn, log: slog.New(slog.DiscardHandler), window: 1 << 20, done: make(chan struct{}),
		begin: func(_ *session, h wire.Hello) (*stream, *ring, *epoch, error) {
			e, _, _ := st.resume(h, "", "")
			return st, newRing(h.LinkType, leastMemory, new(atomic.Uint64)), e, nil
		},
		ended: func(*session, wire.End) {},
	}
	ended := make(chan ending, 1)
	go func() {
		err := s.run()
		conn.Close()
		ended <- ending{err, time.Now()}
	}()
	return s, ended
}

// sealedLink is a link with TLS.
type sealedLink struct {
	link
	tls *tls.Conn
}

func (l sealedLink) Read(p []byte) (int, error)  { return l.tls.Read(p) }
func (l sealedLink) Write(p []byte) (int, error) { return l.tls.Write(p) }

// slowly is a connection that sends 100 bytes in so much time.
type slowly struct {
	net.Conn
	pause *time.Duration
}

func (s slowly) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		time.Sleep(*s.pause)
		var m int
		m, err = s.Conn.Write(p[n:min(len(p), n+100)])
		n += m
	}
	return n, err
}

// While a record of TLS is on its way for longer than may pass in silence, the
// relay neither takes the agent for dead nor falls silent itself. Fails when
// only what Read returns counts as heard.
func TestASlowRecordIsNoSilence(t *testing.T) {
	ca := poiptest.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		pause := time.Duration(0)
		theirs := tls.Client(slowly{near, &pause}, &tls.Config{InsecureSkipVerify: true})
		ours := link{transport.NewCork(far, transport.GatherSize)}
		secured := tls.Server(ours, ca.AnalystTLS())
		go theirs.Handshake() // an error shows in the other's
		if err := secured.Handshake(); err != nil {
			t.Fatal(err)
		}
		_, ended := sessionOn(sealedLink{ours, secured})
		a := &agent{t: t, conn: theirs, r: bufio.NewReader(theirs)}
		a.hello("s/c")
		pause = 200 * time.Millisecond // 500 bytes a second
		begin := time.Now()
		go theirs.Write(batchOf(0, strings.Repeat("x", 30_000)))
		for signs := 0; ; signs++ {
			a.conn.SetReadDeadline(time.Now().Add(wire.SignOfLife + time.Second))
			h, payload, err := a.tryReceive()
			if err != nil || h.Type != wire.TypeAck {
				t.Fatalf("after %s: %v, %v", time.Since(begin), h, err)
			}
			if ack, _ := wire.ParseAck(payload); ack.Next == 1 {
				if signs < 10 {
					t.Errorf("%d signs of life in %s", signs, time.Since(begin))
				}
				break
			}
		}
		near.Close()
		<-ended
	})
}

func TestTimers(t *testing.T) {
	for _, c := range []struct {
		name string
		want error
		at   time.Duration
		do   func(*agent)
	}{
		{"silence before hello", errNoHello, wire.HelloTimeout, func(*agent) {}},
		{"half a hello", errNoHello, wire.HelloTimeout, func(a *agent) { a.send(wire.AppendHello(nil, greeting1("s/c"))[:20]) }},
		{"drops before hello", errNoHello, wire.HelloTimeout, func(a *agent) {
			frame := wire.AppendHello(nil, greeting1("s/c"))
			for i := range 15 {
				time.AfterFunc(time.Duration(i)*900*time.Millisecond, func() { a.conn.Write(frame[i : i+1]) })
			}
		}},
		{"silence", errIdle, wire.Idle, func(a *agent) { a.hello("s/c") }},
		{"silence after a batch", errIdle, 10*time.Second + wire.Idle, func(a *agent) {
			a.hello("s/c")
			time.AfterFunc(10*time.Second, func() { a.packets("one") })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				a, _, ended := pipeSession(t)
				c.do(a)
				signs := 0
				for {
					h, _, err := a.tryReceive()
					if err != nil {
						break
					}
					if h.Type == wire.TypeAck {
						signs++
					}
				}
				end := <-ended
				if end.err != c.want {
					t.Errorf("ended with %v, want %v", end.err, c.want)
				}
				if got := end.at.Sub(begin); got < c.at || got > c.at+50*time.Millisecond {
					t.Errorf("ended after %s, want %s", got, c.at)
				}
				if c.want == errIdle && signs < 2 {
					t.Errorf("%d signs of life", signs)
				}
			})
		})
	}
}

func TestAcksAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, s, ended := pipeSession(t)
		a.hello("s/c")
		begin := time.Now()
		go func() {
			for range 100 {
				a.packets("p")
				time.Sleep(time.Millisecond)
			}
		}()
		acks := 0
		for next := wire.PacketNumber(0); next < 100; acks++ {
			h, payload := a.receive()
			if h.Type != wire.TypeAck {
				t.Fatalf("type %d", h.Type)
			}
			ack, _ := wire.ParseAck(payload)
			next = ack.Next
		}
		if took := time.Since(begin); acks > 7 || took > 100*time.Millisecond+2*ackDelay {
			t.Errorf("%d acks for 100 packets in %s", acks, took)
		}
		s.interrupt(wire.CodeDraining)
		if got := a.refused(); got.Code != wire.CodeDraining {
			t.Errorf("told %v", got)
		}
		<-ended
	})
}

// FuzzIntakeSession holds a session against a model of PROTOCOL.md, section 5.
// The input is a script: each pair of bytes is one frame.
func FuzzIntakeSession(f *testing.F) {
	f.Add([]byte{0, 0, 1, 3, 2, 5, 1, 0, 4, 0})
	f.Add([]byte{0, 1, 1, 9, 9, 1, 5, 0, 6, 0})
	f.Add([]byte{0, 0, 1, 3, 4, 0, 0, 7, 1, 2, 3, 0, 8, 30})
	f.Fuzz(func(t *testing.T, script []byte) {
		m := newIntakeModel()
		var frames []byte
		for i := 0; i+1 < len(script) && i < 200; i += 2 {
			frames = append(frames, m.frame(script[i], script[i+1])...)
		}
		s := &session{
			conn: &tape{frames: frames}, log: slog.New(slog.DiscardHandler), window: 1 << 20, done: make(chan struct{}),
			begin: m.begin, ended: func(*session, wire.End) {},
		}
		err := s.run()
		if m.stream.ledger.packets.Load() != m.received || lostIn(&m.stream.ledger) != m.lost {
			t.Errorf("received %d, lost %d; want %d and %d (%v)", m.stream.ledger.packets.Load(), lostIn(&m.stream.ledger), m.received, m.lost, err)
		}
		if m.broken == (err == io.EOF) {
			t.Errorf("ended with %v, model says broken: %t", err, m.broken)
		}
		if s.state != greeting && !m.broken && s.position != m.position {
			t.Errorf("position %d, want %d", s.position, m.position)
		}
	})
}

func lostIn(l *ledger) (n uint64) {
	for i := range l.lost {
		n += l.lost[i].Load()
	}
	return n
}

// intakeModel writes frames and foretells what a session makes of them.
type intakeModel struct {
	stream         *stream
	ring           *ring
	arrivals       atomic.Uint64
	positions      map[wire.Epoch]wire.PacketNumber
	epoch          wire.Epoch
	position       wire.PacketNumber
	state          state
	broken         bool
	received, lost uint64
}

func newIntakeModel() *intakeModel {
	m := &intakeModel{stream: &stream{name: auth.StreamName{Sensor: "s", Capture: "c"}, log: slog.New(slog.DiscardHandler)}, positions: make(map[wire.Epoch]wire.PacketNumber)}
	m.ring = newRing(pcap.LinkEthernet, leastMemory, &m.arrivals)
	return m
}

func (m *intakeModel) begin(_ *session, h wire.Hello) (*stream, *ring, *epoch, error) {
	e, lost, _ := m.stream.resume(h, "", "")
	if lost > 0 {
		m.stream.lose(lost, wire.CauseRelayRestart)
	}
	return m.stream, m.ring, e, nil
}

func (m *intakeModel) frame(kind, arg byte) []byte {
	at := wire.PacketNumber(int64(m.position) + int64(int8(arg))/16)
	n := uint64(arg%16) + 1
	switch kind % 10 {
	case 0:
		return m.hello(arg)
	case 1, 2:
		return m.run(m.position, n, true)
	case 3:
		return m.run(m.position, n, false)
	case 4:
		return m.end(m.position)
	case 5:
		m.breakIf(m.state == greeting)
		return wire.AppendStats(nil, wire.Stats{Captured: n})
	case 6:
		return m.end(at)
	case 7:
		return m.run(at, n, true)
	case 8:
		return m.run(at, n, false)
	}
	m.broken = true
	return []byte{arg, arg, 0, 0, arg, 0, 0, 0}
}

func (m *intakeModel) breakIf(bad bool) { m.broken = m.broken || bad }

func (m *intakeModel) hello(arg byte) []byte {
	e, oldest := epochOf(arg%4), wire.PacketNumber(arg/16)
	h := greeting1("s/c", func(h *wire.Hello) { h.Epoch, h.Oldest = e, oldest })
	m.breakIf(m.state == streaming)
	if !m.broken {
		m.epoch, m.state = e, streaming
		if oldest > m.positions[e] {
			m.lost += uint64(oldest - m.positions[e])
			m.positions[e] = oldest
		}
		m.position = m.positions[e]
	}
	return wire.AppendHello(nil, h)
}

// run is a batch or a gap of n packets.
func (m *intakeModel) run(first wire.PacketNumber, n uint64, batch bool) []byte {
	next := first + wire.PacketNumber(n)
	m.breakIf(m.state != streaming || next < first || first > m.position || first < m.position && next > m.position)
	if !m.broken && first == m.position {
		m.position, m.positions[m.epoch] = next, next
		if batch {
			m.received += n
		} else {
			m.lost += n
		}
	}
	if !batch {
		return wire.AppendGap(nil, wire.Gap{First: first, Count: n, Cause: wire.CauseKernelDrop})
	}
	return batchOf(first, strings.Split(strings.Repeat("x,", int(n)-1)+"x", ",")...)
}

func (m *intakeModel) end(next wire.PacketNumber) []byte {
	m.breakIf(m.state != streaming || next != m.position)
	if !m.broken {
		m.state = resting
	}
	return wire.AppendEnd(nil, wire.End{Next: next})
}

// tape is a transport.Conn that was recorded.
type tape struct {
	source
	frames []byte
}

func (t *tape) Read(p []byte) (int, error) {
	if len(t.frames) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.frames)
	t.frames = t.frames[n:]
	return n, nil
}
