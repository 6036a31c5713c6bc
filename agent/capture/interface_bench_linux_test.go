package capture

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// batchSink packs packets as an agent would. It measures the processor time of
// the thread that runs the capture.
type batchSink struct {
	buf           []byte
	packets, lost uint64
	flushes       uint64
	started, cpu  time.Duration
}

func (s *batchSink) Packet(sec, nsec, original uint32, data []byte) {
	if len(s.buf)+len(data)+pcap.RecordHeaderLen > cap(s.buf) {
		s.buf = s.buf[:0]
	}
	s.buf = pcap.AppendRecord(s.buf, sec, nsec, original, data)
	s.packets++
}

func (s *batchSink) Lost(n uint64, _ wire.Cause) { s.lost += n }
func (s *batchSink) Empty()                      {}
func (s *batchSink) Flush()                      { s.flushes++; s.cpu = threadTime() - s.started }

func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run captures on a thread of its own until ctx ends.
func (s *batchSink) run(ctx context.Context, i *Interface) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.buf, s.started = make([]byte, 0, 64<<10), threadTime()
	return i.Run(ctx, func(Info) Sink { return s })
}

// BenchmarkInterface captures frames of a veth and, beside it in time, has
// tcpdump do the same. A packet's cost is what the capturing thread or process
// used; some of the kernel's work for the sender is always in it.
func BenchmarkInterface(b *testing.B) {
	poiptest.RunInNetns(b, func() {
		if err := poiptest.IP("link add vA type veth peer name vB", "link set vA up", "link set vB up"); err != nil {
			b.Fatal(err)
		}
		for _, length := range []int{64, 1400} {
			for _, rate := range []float64{1e3, 100e3, 400e3, 800e3, 0} {
				for _, latency := range []Latency{LatencyNormal, LatencyLow} {
					benchmarkRate(b, latency, length, rate)
				}
				if poiptest.RealRoot() {
					benchmarkTcpdump(b, length, rate)
				}
			}
		}
	})
}

func benchmarkRate(b *testing.B, latency Latency, length int, rate float64) {
	b.Run(fmt.Sprintf("%s/%dB/%.0fkpps", latency, length, rate/1000), func(b *testing.B) {
		for b.Loop() {
			var s batchSink
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			i := &Interface{Name: "vB", Latency: latency, Log: slog.New(slog.DiscardHandler)}
			go func() { done <- s.run(ctx, i) }()
			time.Sleep(100 * time.Millisecond)
			sent, pps := generate(b, length, rate)
			cancel()
			<-done
			b.ReportMetric(float64(s.cpu)/float64(s.packets), "cpu-ns/packet")
			b.ReportMetric(float64(sent-s.packets), "lost")
			b.ReportMetric(pps, "pps")
			b.ReportMetric(float64(s.flushes), "flushes")
		}
	})
}

func generate(b *testing.B, length int, rate float64) (sent uint64, pps float64) {
	g, err := poiptest.NewGenerator("vA", length)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	count := uint64(rate)
	if rate == 0 {
		count = 1e6
	}
	took, err := g.Send(count, rate)
	if err != nil {
		b.Fatal(err)
	}
	return g.Sent(), float64(g.Sent()) / took.Seconds()
}

func benchmarkTcpdump(b *testing.B, length int, rate float64) {
	b.Run(fmt.Sprintf("tcpdump/%dB/%.0fkpps", length, rate/1000), func(b *testing.B) {
		for b.Loop() {
			var said []byte
			tcpdump := exec.Command("tcpdump", "-i", "vB", "-w", "/dev/null")
			stderr, _ := tcpdump.StderrPipe()
			if err := tcpdump.Start(); err != nil {
				b.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
			sent, pps := generate(b, length, rate)
			time.Sleep(1100 * time.Millisecond)
			tcpdump.Process.Signal(unix.SIGINT)
			buf := make([]byte, 1000)
			for {
				n, err := stderr.Read(buf)
				said = append(said, buf[:n]...)
				if err != nil {
					break
				}
			}
			tcpdump.Wait()
			u := tcpdump.ProcessState.SystemTime() + tcpdump.ProcessState.UserTime()
			var n, dropped uint64
			for line := range splitLines(said) {
				fmt.Sscanf(line, "%d packets captured", &n)
				fmt.Sscanf(line, "%d packets dropped by kernel", &dropped)
			}
			b.ReportMetric(float64(u)/float64(n), "cpu-ns/packet")
			b.ReportMetric(float64(sent-n), "lost")
			b.ReportMetric(pps, "pps")
		}
	})
}
func splitLines(b []byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for i, c := range b {
			if c == '\n' {
				if !yield(string(b[start:i])) {
					return
				}
				start = i + 1
			}
		}
	}
}
