package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// source is a transport.Conn on which an agent sends batches as fast as they
// are read, or paced.
type source struct {
	transport.Conn
	left    int    // batches
	hello   []byte // what is left of it
	frame   []byte // the batch at hand
	at      int    // of it, what was read
	count   int
	first   wire.PacketNumber
	pace    time.Duration // between batches; 0: none
	gate    func()        // waits before every 32nd batch; may be nil
	due     time.Time
	waiting func()
}

func newSource(batches, size, payload int) *source {
	frame := make([]byte, wire.BatchPrefixLen)
	n := 0
	for data := make([]byte, payload); len(frame) < size; n++ {
		frame = pcap.AppendRecord(frame, 1700000000, 5, uint32(payload), data)
	}
	hello := wire.AppendHello(nil, wire.Hello{Version: 1, LinkType: 1, Snaplen: 65535, Stream: "s/c"})
	return &source{left: batches, hello: hello, frame: frame, at: len(frame), count: n, due: time.Now()}
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.hello) > 0 {
		n := copy(p, s.hello)
		s.hello = s.hello[n:]
		return n, nil
	}
	if s.at == len(s.frame) {
		if s.left == 0 {
			return 0, io.EOF
		}
		if s.pace > 0 {
			s.wait()
		}
		if s.gate != nil && s.left%32 == 0 {
			s.waiting()
			s.gate()
		}
		s.left--
		wire.SealBatch(s.frame, wire.BatchHeader{First: s.first, Count: uint32(s.count)})
		s.first += wire.PacketNumber(s.count)
		s.at = 0
	}
	n := copy(p, s.frame[s.at:])
	s.at += n
	return n, nil
}

func (s *source) wait() {
	if wait := time.Until(s.due); wait > 0 {
		s.waiting()
		time.Sleep(time.Until(s.due))
	}
	s.due = s.due.Add(s.pace)
}

func (s *source) Write(p []byte) (int, error)          { return len(p), nil }
func (s *source) Flush() error                         { return nil }
func (s *source) Close() error                         { return nil }
func (s *source) SetReadDeadline(time.Time) error      { return nil }
func (s *source) SetWriteDeadline(time.Time) error     { return nil }
func (s *source) SetWritePatience(time.Duration) error { return nil }
func (s *source) Arrived() uint64                      { return 0 }
func (s *source) BeforeWait(f func())                  { s.waiting = f }
func (s *source) Network() string                      { return "tls" }
func (s *source) RemoteAddr() net.Addr                 { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *source) TLS() tls.ConnectionState {
	return tls.ConnectionState{}
}

// converseFrom has the source send its batches to the relay.
func (w *world) converseFrom(s *source) {
	session := &session{
		conn: s, sensor: "s", log: slog.New(slog.DiscardHandler), window: 16 << 20,
		begin: w.begin, ended: w.ended, done: make(chan struct{}),
	}
	err := session.run()
	w.release(session, err)
}

// BenchmarkFanout sends one stream to N analysts on this machine.
func BenchmarkFanout(b *testing.B) {
	for _, encrypted := range []bool{false, true} {
		for _, payload := range []int{1400, 64} {
			for _, n := range []int{1, 4, 10, 100} {
				name := fmt.Sprintf("plain/%dB/%d", payload, n)
				if encrypted {
					name = fmt.Sprintf("tls/%dB/%d", payload, n)
				}
				b.Run(name, func(b *testing.B) { benchmarkFanout(b, n, payload, encrypted) })
			}
		}
	}
}

func benchmarkFanout(b *testing.B, readers, payload int, encrypted bool) {
	w := newWorld(b, func(c *Config) { c.Stream.Memory = 64 << 20 }, plain("p", func(l *ListenerConfig) { l.TLS = encrypted }))
	ended := make(chan int64, readers)
	for range readers {
		conn, err := net.Dial("tcp", w.address("p"))
		if err != nil {
			b.Fatal(err)
		}
		if encrypted {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		go func() {
			buf := make([]byte, 256<<10)
			n := int64(0)
			for {
				k, err := conn.Read(buf)
				n += int64(k)
				if err != nil {
					conn.Close()
					ended <- n
					return
				}
			}
		}()
	}
	w.eventually("the readers", func() bool { return w.listenerStatus("p").Connections == readers })

	s := newSource(max(b.N, 16), 64<<10, payload)
	b.SetBytes(int64(len(s.frame)) * int64(readers))
	b.ResetTimer()
	cpu, begin := processorTime(), time.Now()
	w.converseFrom(s)
	w.eventually("the readers to have it all", func() bool { return w.listenerStatus("p").Pending == 0 })
	took, cpu := time.Since(begin), processorTime()-cpu
	b.StopTimer()
	l := w.listenerStatus("p")
	w.stop()
	total := int64(0)
	for range readers {
		total += <-ended
	}
	gib := float64(total) / (1 << 30)
	b.ReportMetric(gib/took.Seconds(), "GiB/s")
	b.ReportMetric(cpu.Seconds()/gib, "cpu-s/GiB")
	b.ReportMetric(100*float64(l.Skipped["overrun"])/float64(l.Offered), "%skipped")
	b.ReportMetric(0, "ns/op")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBareTCP is the floor: one goroutine for each reader writes the same
// buffer again and again.
func BenchmarkBareTCP(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkBare(b, n) })
	}
}

func benchmarkBare(b *testing.B, readers int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	buf := make([]byte, 256<<10)
	done := make(chan struct{}, 2*readers)
	cpu, begin := processorTime(), time.Now()
	for range readers {
		r, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			b.Fatal(err)
		}
		s.(*net.TCPConn).SetWriteBuffer(256 << 10)
		go func() {
			defer func() { done <- struct{}{} }()
			defer s.Close()
			for range max(1, b.N/4) {
				if _, err := s.Write(buf); err != nil || ctx.Err() != nil {
					return
				}
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			defer r.Close()
			buf := make([]byte, 256<<10)
			for {
				if _, err := r.Read(buf); err != nil {
					return
				}
			}
		}()
	}
	for range 2 * readers {
		<-done
	}
	gib := float64(max(1, b.N/4)) * float64(readers) * float64(len(buf)) / (1 << 30)
	b.ReportMetric(gib/time.Since(begin).Seconds(), "GiB/s")
	b.ReportMetric((processorTime()-cpu).Seconds()/gib, "cpu-s/GiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTrickle sends 1000 packets a second to 1000 analysts, for b.N
// milliseconds.
func BenchmarkTrickle(b *testing.B) {
	w := newWorld(b, nil, plain("p"))
	const readers = 1000
	for range readers {
		conn, err := net.Dial("tcp", w.address("p"))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		go func() { io.Copy(io.Discard, struct{ io.Reader }{conn}) }()
	}
	w.eventually("the readers", func() bool { return w.listenerStatus("p").Connections == readers })
	s := newSource(b.N, wire.BatchPrefixLen+80, 64)
	s.pace = time.Millisecond
	b.ResetTimer()
	cpu, begin := processorTime(), time.Now()
	w.converseFrom(s)
	b.ReportMetric((processorTime()-cpu).Seconds()/time.Since(begin).Seconds(), "cores")
	b.ReportMetric(0, "ns/op")
	b.StopTimer()
	w.eventually("the readers to have it all", func() bool { return w.listenerStatus("p").Pending == 0 })
	if l := w.listenerStatus("p"); l.Sent != uint64(max(1, b.N)*readers) {
		b.Errorf("sent %d", l.Sent)
	}
}
