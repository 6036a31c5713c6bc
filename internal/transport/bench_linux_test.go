package transport_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sort"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// benchBytes is what one round carries.
const benchBytes = 256 << 20

// pipe is an open way from a writer to a reader, at the far end of which
// everything is discarded.
type pipe struct {
	write func(p []byte) error
	flush func() error
	read  chan int64 // total so far, after each round
	close func()
}

// round carries benchBytes and says what it took.
func (p *pipe) round(b *testing.B, chunk []byte) (wall, cpu time.Duration) {
	start, used := time.Now(), cpuTime()
	for n := 0; n < benchBytes; n += len(chunk) {
		must(b, p.write(chunk))
	}
	must(b, p.flush())
	<-p.read
	return time.Since(start), cpuTime() - used
}

// beside runs ours and bare by turns, so that both see the same machine.
func beside(b *testing.B, bare, ours *pipe, chunk int) {
	defer bare.close()
	defer ours.close()
	buf := make([]byte, chunk)
	bare.round(b, buf)
	ours.round(b, buf)
	var wall, cpu [2][]float64
	b.ResetTimer()
	for range b.N {
		for i, p := range []*pipe{bare, ours} {
			w, c := p.round(b, buf)
			wall[i] = append(wall[i], w.Seconds())
			cpu[i] = append(cpu[i], c.Seconds())
		}
	}
	const perGiB = (1 << 30) / benchBytes
	b.ReportMetric(median(cpu[0])*perGiB, "bare-cpu-s/GiB")
	b.ReportMetric(median(cpu[1])*perGiB, "cpu-s/GiB")
	b.ReportMetric(median(cpu[1])/median(cpu[0]), "cpu-ratio")
	b.ReportMetric(1/median(wall[0])/perGiB, "bare-GiB/s")
	b.ReportMetric(1/median(wall[1])/perGiB, "GiB/s")
	b.ReportMetric(median(wall[0])/median(wall[1]), "rate-ratio")
	b.ReportMetric(0, "ns/op")
}

func median(v []float64) float64 {
	sort.Float64s(v)
	return v[len(v)/2]
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// sink reads rounds from r until it ends.
func sink(r io.Reader, size int, rounds chan<- int64) {
	buf := make([]byte, size)
	for total, next := int64(0), int64(benchBytes); ; {
		n, err := r.Read(buf)
		total += int64(n)
		if total >= next {
			rounds <- total
			next += benchBytes
		}
		if err != nil {
			return
		}
	}
}

func ourPipe(b *testing.B, ca *poiptest.CA, network string) *pipe {
	p := &pipe{read: make(chan int64)}
	ep := relay(b, network, ca.IntakeTLS(), transport.ServeOptions{}, func(_ context.Context, c transport.Conn) {
		sink(c, 256<<10, p.read)
	})
	c, err := dialer(b, ca.AgentTLS("branch-7")).Open(context.Background(), ep)
	must(b, err)
	p.write = func(q []byte) error { _, err := c.Write(q); return err }
	p.flush = c.Flush
	p.close = func() { c.Close() }
	return p
}

func bareTLS(b *testing.B, ca *poiptest.CA) *pipe {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	p := &pipe{read: make(chan int64), flush: func() error { return nil }}
	go func() {
		c, err := ln.Accept()
		ln.Close()
		if err != nil {
			return
		}
		defer c.Close()
		sink(tls.Server(c, ca.IntakeTLS()), 256<<10, p.read)
	}()
	cfg := ca.AgentTLS("branch-7")
	cfg.ServerName = "127.0.0.1"
	c, err := tls.Dial("tcp", ln.Addr().String(), cfg)
	must(b, err)
	p.write = func(q []byte) error { _, err := c.Write(q); return err }
	p.close = func() { c.Close() }
	return p
}

func bareQUIC(b *testing.B, ca *poiptest.CA) *pipe {
	ln, err := quic.ListenAddr("127.0.0.1:0", ca.IntakeTLS(), nil)
	must(b, err)
	p := &pipe{read: make(chan int64), flush: func() error { return nil }}
	go func() {
		c, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		sink(s, 256<<10, p.read)
	}()
	cfg := ca.AgentTLS("branch-7")
	c, err := quic.DialAddr(context.Background(), ln.Addr().String(), cfg, nil)
	must(b, err)
	s, err := c.OpenStreamSync(context.Background())
	must(b, err)
	p.write = func(q []byte) error { _, err := s.Write(q); return err }
	p.close = func() { c.CloseWithError(0, ""); ln.Close() }
	return p
}

// BenchmarkTLS compares with bare crypto/tls, at both ends. Aim: cpu-ratio <= 1.
func BenchmarkTLS(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"256KiB", 256 << 10}, {"64KiB", 64 << 10}, {"4KiB", 4 << 10}} {
		b.Run(size.name, func(b *testing.B) {
			ca := poiptest.NewCA(b)
			beside(b, bareTLS(b, ca), ourPipe(b, ca, "tls"), size.n)
		})
	}
}

// BenchmarkQUIC compares with bare quic-go, at both ends. Aim: rate-ratio >= 0.9.
func BenchmarkQUIC(b *testing.B) {
	ca := poiptest.NewCA(b)
	beside(b, bareQUIC(b, ca), ourPipe(b, ca, "quic"), 256<<10)
}
