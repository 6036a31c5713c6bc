package capture

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// batchSink packs packets as an agent would, and measures the processor time
// of the thread that runs the capture.
type batchSink struct {
	buf           []byte
	packets, lost uint64
	flushes       uint64
	cpu           time.Duration
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
func (s *batchSink) Flush()                      { s.flushes++ }

// capture runs a capture on a thread of its own until ctx ends.
func (s *batchSink) capture(ctx context.Context, i *Interface) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s.buf = make([]byte, 0, 64<<10)
	var started time.Duration
	i.Run(ctx, func(Info) Sink { started = threadTime(); return s })
	s.cpu = threadTime() - started
}

func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkInterface captures frames of a veth and, next to it, has tcpdump do
// the same. A packet's cost is what the capturing thread or process used; some
// of the kernel's work for the sender may be in it.
func BenchmarkInterface(b *testing.B) {
	poiptest.RunInNetns(b, func() {
		poiptest.Veth(b, "vA", "vB", 1500)
		for _, c := range []struct {
			length int
			rate   float64 // 0 is as fast as it goes
		}{{64, 1e3}, {64, 100e3}, {64, 400e3}, {64, 800e3}, {64, 0}, {1400, 200e3}} {
			name := fmt.Sprintf("%dB/%.0fkpps/", c.length, c.rate/1000)
			for _, latency := range []Latency{LatencyNormal, LatencyLow} {
				b.Run(name+string(latency), func(b *testing.B) { benchmarkCapture(b, latency, c.length, c.rate) })
			}
			if poiptest.RealRoot() {
				b.Run(name+"tcpdump", func(b *testing.B) { benchmarkTcpdump(b, c.length, c.rate) })
			}
		}
	})
}

func benchmarkCapture(b *testing.B, latency Latency, length int, rate float64) {
	for b.Loop() {
		s, before := new(batchSink), boundSockets(b)
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.capture(ctx, &Interface{Name: "vB", Latency: latency, Log: slog.New(slog.DiscardHandler)})
		}()
		poiptest.WaitUntil(b, "capture", func() bool { return boundSockets(b) > before })
		sent, pps := generate(b, length, rate)
		cancel()
		<-done
		b.ReportMetric(float64(s.flushes), "flushes")
		b.ReportMetric(float64(s.lost), "dropped")
		report(b, s.cpu, sent, s.packets, pps)
	}
}

// generate sends for a second.
func generate(b *testing.B, length int, rate float64) (sent uint64, pps float64) {
	g, err := poiptest.NewGenerator("vA", length)
	must(b, err)
	defer g.Close()
	count := uint64(rate)
	if rate == 0 {
		count = 1e6
	}
	took, err := g.Send(count, rate)
	must(b, err)
	return g.Sent(), float64(g.Sent()) / took.Seconds()
}

func report(b *testing.B, cpu time.Duration, sent, got uint64, pps float64) {
	b.ReportMetric(float64(cpu)/float64(max(got, 1)), "cpu-ns/packet")
	b.ReportMetric(float64(sent)-float64(got), "missing")
	b.ReportMetric(pps, "pps")
	b.ReportMetric(0, "ns/op")
}

func benchmarkTcpdump(b *testing.B, length int, rate float64) {
	for b.Loop() {
		var said bytes.Buffer
		cmd := exec.Command("tcpdump", "-Z", "root", "-i", "vB", "-w", "/dev/null")
		cmd.Stderr = &said
		must(b, cmd.Start())
		poiptest.WaitUntil(b, "tcpdump", func() bool { return packetSockets(b) > 0 })
		time.Sleep(100 * time.Millisecond)
		sent, pps := generate(b, length, rate)
		time.Sleep(1100 * time.Millisecond) // its buffer empties within a second
		must(b, cmd.Process.Signal(unix.SIGINT))
		cmd.Wait()
		var got uint64
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "packets captured") {
				fmt.Sscanf(line, "%d", &got)
			}
		}
		report(b, cmd.ProcessState.SystemTime()+cmd.ProcessState.UserTime(), sent, got, pps)
	}
}

// packetSockets counts the packet sockets that receive, whosever they are.
func packetSockets(b *testing.B) int {
	table, err := exec.Command("cat", "/proc/net/packet").Output()
	must(b, err)
	return strings.Count(string(table), " 0003 ")
}
