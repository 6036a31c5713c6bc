package broker

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/certs"
	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what should happen at once.
const patience = 30 * time.Second

// world is a relay at work.
type world struct {
	*Broker
	t    testing.TB
	ca   *poiptest.CA
	cfg  Config
	logs *poiptest.Log
	stop func() // ends the relay and waits
}

// newWorld starts a relay with the listeners, after change has had its way.
func newWorld(t testing.TB, change func(*Config), listeners ...ListenerConfig) *world {
	t.Helper()
	return startWorld(t, testConfig(t, change, listeners...))
}

func testConfig(t testing.TB, change func(*Config), listeners ...ListenerConfig) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name, cfg.Data = "relay.test", t.TempDir()
	cfg.Intake.TCP, cfg.Intake.QUIC, cfg.Admin.Listen = "127.0.0.1:0", "", "127.0.0.1:0"
	cfg.Stream.Memory = 4 << 20
	cfg.Listeners = listeners
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func startWorld(t testing.TB, cfg Config, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, ca: poiptest.NewCA(t), cfg: cfg, logs: new(poiptest.Log)}
	options := w.options()
	for _, f := range change {
		f(&options)
	}
	b, err := New(cfg, options)
	if err != nil {
		t.Fatal(err)
	}
	w.Broker = b
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		begin := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("Run took %s to end", took)
		}
	})
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Log(w.logs.String())
		}
	})
	return w
}

func (w *world) options() Options {
	return Options{
		Log:       slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		IntakeTLS: w.ca.IntakeTLS(),
		AnalystTLS: func(clientAuth string) (*tls.Config, error) {
			if clientAuth == "cert" {
				return certs.AnalystTLS(w.ca.Relay, w.ca.Pool), nil
			}
			return w.ca.AnalystTLS(), nil
		},
	}
}

// plain is a listener for everything, on a free port.
func plain(name string, change ...func(*ListenerConfig)) ListenerConfig {
	l := ListenerConfig{Name: name, Listen: "127.0.0.1:0", Streams: []string{"*/*"}, Allow: []string{"127.0.0.0/8", "::1/128"}}
	for _, f := range change {
		f(&l)
	}
	return l
}

// eventually waits until what it asks for is so.
func (w *world) eventually(what string, f func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) listenerStatus(name string) ListenerStatus {
	w.t.Helper()
	for _, l := range w.Listeners() {
		if l.Name == name {
			return l
		}
	}
	w.t.Fatalf("no listener %q", name)
	return ListenerStatus{}
}

func (w *world) streamStatus(name string) StreamStatus {
	for _, s := range w.Streams() {
		if string(s.Sensor)+"/"+string(s.Stream) == name {
			return s
		}
	}
	return StreamStatus{}
}

// address is where analysts reach the listener; door by stream, where each
// has its own.
func (w *world) address(listener string, stream ...string) string {
	w.t.Helper()
	for _, d := range w.listenerStatus(listener).Doors {
		if len(stream) == 0 || d.Stream == stream[0] {
			return d.Address
		}
	}
	w.t.Fatalf("listener %q has no door for %v", listener, stream)
	return ""
}

// agent is the other end of a session.
type agent struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	next wire.PacketNumber
	name string // of the stream
	last wire.Ack
}

// dial opens a session as a sensor, without a hello.
func (w *world) dial(sensor string) *agent {
	w.t.Helper()
	config := w.ca.AgentTLS(sensor)
	config.ServerName = "127.0.0.1"
	conn, err := tls.Dial("tcp", w.tcp.Addr().String(), config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return &agent{t: w.t, conn: conn, r: bufio.NewReader(conn)}
}

// agent opens a session and an epoch.
func (w *world) agent(stream string, change ...func(*wire.Hello)) *agent {
	w.t.Helper()
	a := w.dial(strings.Split(stream, "/")[0])
	a.name = stream
	ack := a.hello(stream, change...)
	a.next = ack.Position
	return a
}

func epochOf(b byte) (e wire.Epoch) { e[0] = b; return e }

func greeting1(stream string, change ...func(*wire.Hello)) wire.Hello {
	h := wire.Hello{Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: pcap.MaxCaptured, Epoch: epochOf(1),
		SentAt: time.Now().UnixNano(), Stream: stream, Interface: "if0", Agent: "test"}
	for _, f := range change {
		f(&h)
	}
	return h
}

// hello opens an epoch and returns the answer.
func (a *agent) hello(stream string, change ...func(*wire.Hello)) wire.HelloAck {
	a.t.Helper()
	a.send(wire.AppendHello(nil, greeting1(stream, change...)))
	a.last = wire.Ack{}
	for {
		switch h, payload := a.receive(); h.Type {
		case wire.TypeAck: // of the epoch before
		case wire.TypeHelloAck:
			ack, err := wire.ParseHelloAck(payload)
			if err != nil {
				a.t.Fatal(err)
			}
			return ack
		default:
			a.t.Fatalf("answer to hello: type %d, %q", h.Type, payload)
		}
	}
}

func (a *agent) send(frame []byte) {
	a.t.Helper()
	if _, err := a.conn.Write(frame); err != nil {
		a.t.Fatalf("agent sends: %v", err)
	}
}

func (a *agent) receive() (wire.Header, []byte) {
	a.t.Helper()
	h, payload, err := a.tryReceive()
	if err != nil {
		a.t.Fatalf("agent receives: %v", err)
	}
	return h, payload
}

func (a *agent) tryReceive() (h wire.Header, payload []byte, err error) {
	a.conn.SetReadDeadline(time.Now().Add(patience)) // fails on a pipe that has been closed, and may yet have something in r
	var head [wire.FrameHeaderLen]byte
	if h, err = wire.ReadHeader(a.r, &head); err != nil {
		return h, nil, err
	}
	payload = make([]byte, h.Length)
	_, err = io.ReadFull(a.r, payload)
	return h, payload, err
}

// acked waits for an ack of everything below next.
func (a *agent) acked(next wire.PacketNumber) wire.Ack {
	a.t.Helper()
	for a.last.Next < next {
		a.ack()
	}
	return a.last
}

// ack waits for one ack.
func (a *agent) ack() {
	a.t.Helper()
	h, payload := a.receive()
	if h.Type != wire.TypeAck {
		a.t.Fatalf("wanted an ack, got type %d %q", h.Type, payload)
	}
	var err error
	if a.last, err = wire.ParseAck(payload); err != nil {
		a.t.Fatal(err)
	}
}

// refused waits for a refusal and the end of the conversation.
func (a *agent) refused() wire.Refusal {
	a.t.Helper()
	for {
		h, payload := a.receive()
		if h.Type != wire.TypeRefusal {
			continue
		}
		r, err := wire.ParseRefusal(payload)
		if err != nil {
			a.t.Fatal(err)
		}
		if _, _, err := a.tryReceive(); !errors.Is(err, io.EOF) {
			a.t.Errorf("after a refusal: %v, want the end", err)
		}
		a.conn.Close()
		return r
	}
}

// packets sends one batch with these payloads, and does not wait.
func (a *agent) packets(payloads ...string) {
	a.t.Helper()
	a.send(batchOf(a.next, payloads...))
	a.next += wire.PacketNumber(len(payloads))
}

func (a *agent) gap(count uint64, cause wire.Cause) {
	a.t.Helper()
	a.send(wire.AppendGap(nil, wire.Gap{First: a.next, Count: count, Cause: cause}))
	a.next += wire.PacketNumber(count)
}

// end ends the epoch and waits for the answer.
func (a *agent) end(final bool) {
	a.t.Helper()
	a.send(wire.AppendEnd(nil, wire.End{Next: a.next, Final: final}))
	for !a.last.Ended {
		a.ack()
	}
}

// testTime is when packet number n was captured.
func testTime(n wire.PacketNumber) (sec, nsec uint32) {
	return 1700000000 + uint32(n/1000), uint32(n%1000)*1000000 + 123456
}

// batchOf is a whole batch frame.
func batchOf(first wire.PacketNumber, payloads ...string) []byte {
	frame := make([]byte, wire.BatchPrefixLen)
	for i, p := range payloads {
		sec, nsec := testTime(first + wire.PacketNumber(i))
		frame = pcap.AppendRecord(frame, sec, nsec, uint32(len(p)), []byte(p))
	}
	wire.SealBatch(frame, wire.BatchHeader{First: first, Count: uint32(len(payloads))})
	return frame
}

// analyst reads a pcap stream.
type analyst struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	nano bool
}

// record is one packet as an analyst sees it.
type record struct {
	sec, frac, original uint32
	data                string
}

// analyst connects to a plain address.
func (w *world) analyst(address string) *analyst {
	w.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	return newAnalyst(w.t, conn)
}

func newAnalyst(t testing.TB, conn net.Conn) *analyst {
	t.Cleanup(func() { conn.Close() })
	return &analyst{t: t, conn: conn, r: bufio.NewReader(conn)}
}

// header reads the file header.
func (a *analyst) header() (snaplen uint32, link pcap.LinkType) {
	a.t.Helper()
	var b [pcap.FileHeaderLen]byte
	a.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(a.r, b[:]); err != nil {
		a.t.Fatalf("read file header: %v", err)
	}
	le := binary.LittleEndian
	switch le.Uint32(b[:]) {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		a.nano = true
	default:
		a.t.Fatalf("magic %08x", le.Uint32(b[:]))
	}
	return le.Uint32(b[16:]), pcap.LinkType(le.Uint32(b[20:]))
}

// record reads one packet; io.EOF only at a packet's beginning.
func (a *analyst) record() (record, error) {
	var b [pcap.RecordHeaderLen]byte
	a.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(a.r, b[:]); err != nil {
		return record{}, err
	}
	sec, frac, captured, original := pcap.Record(b[:])
	data := make([]byte, captured)
	if _, err := io.ReadFull(a.r, data); err != nil {
		return record{}, errors.Join(errors.New("torn record"), err)
	}
	return record{sec, frac, original, string(data)}, nil
}

// read reads n packets and returns their payloads.
func (a *analyst) read(n int) []string {
	a.t.Helper()
	var out []string
	for len(out) < n {
		r, err := a.record()
		if err != nil {
			a.t.Fatalf("read packet %d of %d: %v", len(out), n, err)
		}
		out = append(out, r.data)
	}
	return out
}

// want reads packets and compares their payloads.
func (a *analyst) want(payloads ...string) {
	a.t.Helper()
	got := a.read(len(payloads))
	for i := range payloads {
		if got[i] != payloads[i] {
			a.t.Fatalf("packet %d is %.40q, want %.40q", i, got[i], payloads[i])
		}
	}
}

// ends waits for a clean end.
func (a *analyst) ends() {
	a.t.Helper()
	if r, err := a.record(); !errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		a.t.Fatalf("got %.40q, %v; want the end", r.data, err)
	}
	a.conn.Close()
}
