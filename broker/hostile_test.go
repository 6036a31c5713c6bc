package broker

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// This file is what an agent with a good certificate, or an analyst that is let
// in, may try to hurt others with.

// TestTwoSessionsThatFenceEachOther: one of them gives way; without the case
// s.stream != nil in claim, both wait for the other for ever.
func TestTwoSessionsThatFenceEachOther(t *testing.T) {
	w := newWorld(t, nil)
	for round := range 20 {
		name := fmt.Sprintf("s/c%d", round)
		first := w.agent(name)
		first.end(false)
		second := w.dial("s")
		var burst []byte // so that the first one reads hellos after it was interrupted
		for i := range 200 {
			hello := greeting1(name, func(h *wire.Hello) { h.Epoch = epochOf(byte(2 + i%100)) })
			burst = wire.AppendEnd(wire.AppendHello(burst, hello), wire.End{})
		}
		go io.Copy(io.Discard, first.r)
		go io.Copy(io.Discard, second.r)
		go first.conn.Write(burst)
		time.Sleep(2 * time.Millisecond)
		second.conn.Write(wire.AppendHello(nil, greeting1(name)))
		time.Sleep(10 * time.Millisecond)
		first.conn.Close()
		second.conn.Close()
	}
	w.eventually("nobody to wait in fence", func() bool {
		stacks := make([]byte, 1<<20)
		return !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*Broker).fence(")
	})
}

// TestLinkTypesThatChange: an analyst that takes nothing does not keep the ring
// of every link type that there was.
func TestLinkTypesThatChange(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	a := w.agent("s/c")
	go io.Copy(io.Discard, a.r)
	stalled := stalledAnalyst(t, w)
	defer stalled.Close()
	before := heap()
	const changes, each = 20, 80
	for i := range changes {
		for range each {
			a.packets(strings.Repeat("x", 60000))
		}
		a.send(wire.AppendEnd(nil, wire.End{Next: a.next}))
		a.send(wire.AppendHello(nil, greeting1("s/c", func(h *wire.Hello) {
			h.Epoch, h.LinkType = epochOf(byte(10+i)), []pcap.LinkType{101, 1}[i%2]
		})))
		a.next = 0
	}
	w.eventually("all to arrive", func() bool { return w.streamStatus("s/c").Received == changes*each })
	limit := w.streamStatus("s/c").Ring.Limit
	if grown := heap() - before; grown > 4*limit {
		t.Errorf("the relay grew by %d MiB, with rings of %d MiB", grown>>20, limit>>20)
	}
	stalled.Close()
	w.eventually("the account to be closed", func() bool { return w.listenerStatus("p").balanced() })
}

// TestBlockedEpochs: a new epoch is no way around what blocks the stream.
func TestBlockedEpochs(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Intake.Window = 1 << 20 }, plain("p", func(l *ListenerConfig) { l.Overflow = "block" }))
	a := w.agent("s/c")
	go io.Copy(io.Discard, a.r)
	stalled := stalledAnalyst(t, w)
	defer stalled.Close()
	for i := range 100 {
		for range 16 { // less than the window
			a.offer(strings.Repeat("x", 60000))
		}
		end := wire.AppendEnd(nil, wire.End{Next: a.next})
		hello := wire.AppendHello(end, greeting1("s/c", func(h *wire.Hello) { h.Epoch = epochOf(byte(10 + i)) }))
		if _, err := a.conn.Write(hello); err != nil {
			break // refused, as it has to be
		}
		a.next = 0
	}
	w.eventually("the agent to be refused", func() bool { return strings.Contains(w.logs.String(), "code=limit") })
	st := w.streamStatus("s/c")
	if most := st.Ring.Limit + 2*int(w.cfg.Intake.Window) + 4<<20; st.Ring.Memory > most {
		t.Errorf("the ring takes %d MiB, limit %d MiB", st.Ring.Memory>>20, st.Ring.Limit>>20)
	}
}

// offer sends a packet that may not be wanted any more.
func (a *agent) offer(data string) {
	frame := make([]byte, wire.BatchPrefixLen)
	frame = pcap.AppendRecord(frame, 1, 0, uint32(len(data)), []byte(data))
	wire.SealBatch(frame, wire.BatchHeader{First: a.next, Count: 1})
	a.next++
	a.conn.Write(frame)
}

// TestReloadDuringHandshake: who is denied by a reload is denied in the middle
// of a handshake too.
func TestReloadDuringHandshake(t *testing.T) {
	overTLS := func(l *ListenerConfig) { l.TLS = true }
	w := newWorld(t, nil, plain("p", overTLS))
	w.agent("s/c")
	raw, err := net.Dial("tcp", w.address("p"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	time.Sleep(50 * time.Millisecond) // it is accepted
	next := w.cfg
	next.Listeners = []ListenerConfig{plain("p", overTLS, func(l *ListenerConfig) { l.Allow = []string{"192.0.2.0/24"} })}
	if err := w.Reload(next); err != nil {
		t.Fatal(err)
	}
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := io.ReadFull(tls.Client(raw, &tls.Config{InsecureSkipVerify: true}), make([]byte, pcap.FileHeaderLen)); n != 0 || err == nil {
		t.Errorf("a denied analyst read %d bytes, %v", n, err)
	}
}

// TestOneSensorsConnections: they are bounded before any hello.
func TestOneSensorsConnections(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Intake.MaxStreamsPerSensor = 1 })
	for range 11 {
		w.dial("s")
	}
	w.eventually("the eleventh to be refused", func() bool { return strings.Contains(w.logs.String(), "connections already") })
}

func stalledAnalyst(t *testing.T, w *world) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", w.address("p"))
	if err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).SetReadBuffer(4096)
	w.eventually("the analyst to be there", func() bool { return w.listenerStatus("p").Connections == 1 })
	return conn
}

// heap is what is in use, in bytes.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
