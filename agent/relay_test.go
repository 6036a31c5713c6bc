package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// pipeConn is a transport.Conn over net.Pipe, which sends at once.
type pipeConn struct{ *transport.Cork }

func newPipeConn(conn net.Conn) pipeConn {
	return pipeConn{transport.NewCork(conn, transport.GatherSize)}
}

func (pipeConn) TLS() (s tls.ConnectionState) { return s }
func (pipeConn) Network() string              { return "tls" }
func (pipeConn) Congestion() string           { return "none" }

// A fakeRelay takes streams over pipes, as PROTOCOL.md has it, and fails the
// test when an agent does not keep to that. Its fields are set before it is
// dialed; they say where it departs from a good relay.
type fakeRelay struct {
	t *testing.T

	Down     func(transport.Endpoint) error                // instead of a connection
	Refuse   func(session int, h wire.Hello) *wire.Refusal // instead of a hello-ack
	RefuseAt *wire.Refusal                                 // instead of taking the second batch or gap of a session
	Ack      wire.HelloAck                                 // what it says; a good one by default
	Silent   bool                                          // never acknowledges, nor says that it lives
	Hold     bool                                          // lives, but acknowledges nothing, as for a reader that blocks
	Forget   bool                                          // loses what it took when a connection breaks
	CutAt    int                                           // breaks the first connections after so many batches and gaps; 0 is never
	Cuts     int                                           // so many times
	OnFrame  func(t wire.Type, payload []byte)             // sees every frame

	mu       sync.Mutex
	conns    []net.Conn             // guarded by mu
	streams  map[string]*fakeStream // guarded by mu
	sessions int                    // guarded by mu
	dialed   []transport.Endpoint   // guarded by mu
	serving  sync.WaitGroup
}

// fakeStream is what a fakeRelay has of a stream, guarded by its mu.
type fakeStream struct {
	epochs []*fakeEpoch
}

type fakeEpoch struct {
	hello    wire.Hello
	position wire.PacketNumber
	packets  []string // captured bytes
	gaps     []wire.Gap
	ends     []wire.End
	stats    []wire.Stats
}

func newFakeRelay(t *testing.T) *fakeRelay {
	return &fakeRelay{
		t: t, streams: map[string]*fakeStream{},
		Ack: wire.HelloAck{Version: wire.Version, Window: 1 << 20, MaxBatch: wire.MaxBatchLen, Idle: 15000},
	}
}

// Open is an uplink's open.
func (r *fakeRelay) Open(_ context.Context, ep transport.Endpoint) (transport.Conn, error) {
	r.mu.Lock()
	r.dialed = append(r.dialed, ep)
	r.mu.Unlock()
	if r.Down != nil {
		if err := r.Down(ep); err != nil {
			return nil, err
		}
	}
	ours, theirs := net.Pipe()
	r.mu.Lock()
	r.conns = append(r.conns, ours)
	r.mu.Unlock()
	r.serving.Go(func() { r.serve(ours) })
	return newPipeConn(theirs), nil
}

// hangUp breaks all connections.
func (r *fakeRelay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
}

// forget is a relay that is restarted, and had everything in memory only.
func (r *fakeRelay) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.streams)
}

// errCut ends a connection without a complaint.
var errCut = errors.New("cut")

// serve holds one session, and closes the connection.
func (r *fakeRelay) serve(conn io.ReadWriteCloser) {
	r.mu.Lock()
	r.sessions++
	session := r.sessions
	r.mu.Unlock()
	c := &fakeSession{fakeRelay: r, number: session, out: make(chan []byte, 1<<10)}
	var talking sync.WaitGroup
	talking.Go(func() { c.talk(conn) })
	if err := c.listen(conn); !errors.Is(err, errCut) {
		r.t.Errorf("agent breaks the protocol: %v", err)
	}
	close(c.out)
	talking.Wait()
}

// listen reads frames until the connection ends, which is errCut, or is to.
func (c *fakeSession) listen(conn io.Reader) error {
	for {
		var header [wire.FrameHeaderLen]byte
		h, err := wire.ReadHeader(conn, &header)
		if err != nil && !errors.Is(err, wire.ErrMalformed) {
			return errCut
		}
		if err != nil {
			return err
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(conn, payload); err != nil {
			return errCut
		}
		if err := c.frame(h.Type, payload); err != nil {
			return err
		}
	}
}

// A fakeSession is one connection.
type fakeSession struct {
	*fakeRelay
	number int
	out    chan []byte

	// Guarded by the relay's mu.
	epoch *fakeEpoch
	ended bool
	items int
}

// talk writes what is said, and signs of life, and closes the connection when
// all is said. A pipe holds nothing, so whoever reads must not wait for this.
func (c *fakeSession) talk(conn io.WriteCloser) {
	defer conn.Close()
	alive := time.NewTicker(wire.SignOfLife)
	defer alive.Stop()
	for {
		select {
		case frame, ok := <-c.out:
			if !ok {
				return
			}
			conn.Write(frame)
		case <-alive.C:
			if next, ok := c.standing(); ok {
				conn.Write(wire.AppendAck(nil, wire.Ack{Next: next}))
			}
		}
	}
}

// standing is what a repeated ack says.
func (c *fakeSession) standing() (wire.PacketNumber, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == nil || c.Silent {
		return 0, false
	}
	if c.Hold {
		return c.epoch.hello.Oldest, true
	}
	return c.epoch.position, true
}

func (c *fakeSession) frame(t wire.Type, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.OnFrame != nil {
		c.OnFrame(t, payload)
	}
	if t == wire.TypeHello {
		return c.hello(payload)
	}
	if c.epoch == nil || c.ended && t != wire.TypeStats {
		return fmt.Errorf("frame of type %d without a hello", t)
	}
	switch t {
	case wire.TypeBatch:
		return c.batch(payload)
	case wire.TypeGap:
		g, err := wire.ParseGap(payload)
		if err != nil || g.First != c.epoch.position {
			return fmt.Errorf("gap %+v at %d: %v", g, c.epoch.position, err)
		}
		c.epoch.gaps = append(c.epoch.gaps, g)
		return c.took(g.Next())
	case wire.TypeStats:
		s, err := wire.ParseStats(payload)
		c.epoch.stats = append(c.epoch.stats, s)
		return err
	case wire.TypeEnd:
		return c.end(payload)
	}
	return fmt.Errorf("frame of type %d", t)
}

func (c *fakeSession) hello(payload []byte) error {
	h, err := wire.ParseHello(payload)
	if err != nil {
		return err
	}
	if c.epoch != nil && !c.ended {
		return errors.New("hello within an epoch")
	}
	if c.Refuse != nil {
		if refusal := c.Refuse(c.number, h); refusal != nil {
			return c.say(wire.AppendRefusal(nil, *refusal))
		}
	}
	s := c.streams[h.Stream]
	if s == nil {
		s = &fakeStream{}
		c.streams[h.Stream] = s
	}
	if n := len(s.epochs); n == 0 || s.epochs[n-1].hello.Epoch != h.Epoch {
		s.epochs = append(s.epochs, &fakeEpoch{hello: h, position: h.Oldest})
	}
	c.epoch, c.ended = s.epochs[len(s.epochs)-1], false
	if h.Oldest > c.epoch.position {
		return fmt.Errorf("agent has forgotten %d to %d", c.epoch.position, h.Oldest)
	}
	ack := c.Ack
	ack.Position = c.epoch.position
	return c.say(wire.AppendHelloAck(nil, ack))
}

func (c *fakeSession) batch(payload []byte) error {
	header, records := payload[:wire.BatchHeaderLen], payload[wire.BatchHeaderLen:]
	if err := wire.VerifyBatch(header, records); err != nil {
		return err
	}
	h := wire.ParseBatchHeader(header)
	if h.First != c.epoch.position {
		return fmt.Errorf("batch begins at %d, want %d", h.First, c.epoch.position)
	}
	if c.cut() && c.Forget {
		return errCut
	}
	if c.RefuseAt != nil && c.items == 2 {
		c.say(wire.AppendRefusal(nil, *c.RefuseAt))
		return errCut
	}
	for len(records) > 0 {
		_, _, captured, _ := pcap.Record(records)
		end := pcap.RecordHeaderLen + captured
		c.epoch.packets = append(c.epoch.packets, string(records[pcap.RecordHeaderLen:end]))
		records = records[end:]
	}
	return c.took(h.Next())
}

// cut says whether this connection is to break now.
func (c *fakeSession) cut() bool {
	c.items++
	return c.CutAt > 0 && c.number <= c.Cuts && c.items >= c.CutAt
}

func (c *fakeSession) took(next wire.PacketNumber) error {
	c.epoch.position = next
	if c.CutAt > 0 && c.number <= c.Cuts && c.items >= c.CutAt {
		return errCut // without an ack
	}
	if c.Silent || c.Hold {
		return nil
	}
	return c.say(wire.AppendAck(nil, wire.Ack{Next: next}))
}

func (c *fakeSession) end(payload []byte) error {
	e, err := wire.ParseEnd(payload)
	if err != nil || e.Next != c.epoch.position {
		return fmt.Errorf("end %+v at %d: %v", e, c.epoch.position, err)
	}
	c.epoch.ends = append(c.epoch.ends, e)
	c.ended = true
	return c.say(wire.AppendAck(nil, wire.Ack{Next: e.Next, Ended: true}))
}

func (c *fakeSession) say(frame []byte) error {
	c.out <- frame
	return nil
}

// wait returns when all connections have ended.
func (r *fakeRelay) wait() { r.serving.Wait() }

// stream returns what the relay has of a stream, once all connections have ended.
func (r *fakeRelay) stream(name string) *fakeStream {
	r.t.Helper()
	r.wait()
	s := r.streams[name]
	if s == nil {
		r.t.Fatalf("no stream %s arrived", name)
	}
	return s
}

// numbered is the bytes of packet i.
func numbered(i uint32, length int) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, i), bytes.Repeat([]byte{byte(i)}, max(0, length-4))...)
}

// checkNumbered holds packets against those from first on.
func checkNumbered(t *testing.T, packets []string, first, count int) {
	t.Helper()
	if len(packets) != count {
		t.Fatalf("%d packets arrived, want %d", len(packets), count)
	}
	for i, p := range packets {
		if n := binary.LittleEndian.Uint32([]byte(p)); n != uint32(first+i) {
			t.Fatalf("packet %d has number %d, want %d", i, n, first+i)
		}
	}
}

// connTo is a connection to somebody who behaves in a way, then hangs up.
func connTo(behave func(net.Conn)) transport.Conn {
	ours, theirs := net.Pipe()
	go func() {
		defer ours.Close()
		behave(ours)
	}()
	return newPipeConn(theirs)
}

// saying is somebody who says one thing after the hello, whatever it was.
func saying(what []byte) func(net.Conn) {
	return func(conn net.Conn) {
		takeHello(conn)
		go io.Copy(io.Discard, conn)
		conn.Write(what)
	}
}

func takeHello(conn net.Conn) {
	var header [wire.FrameHeaderLen]byte
	if h, err := wire.ReadHeader(conn, &header); err == nil {
		io.CopyN(io.Discard, conn, int64(h.Length))
	}
}
