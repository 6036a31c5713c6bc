package broker

import (
	"io"
	"testing"
	"time"
)

// BenchmarkIntake takes one stream in, with a history on the disk of the
// temporary directory and without, while one analyst reads it.
func BenchmarkIntake(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{{"off", func(*Config) {}}, {"on", func(c *Config) { c.Stream.History = 4 << 30 }}} {
		b.Run(c.name, func(b *testing.B) { benchmarkIntake(b, c.change) })
	}
}

func benchmarkIntake(b *testing.B, change func(*Config)) {
	w := newWorld(b, func(c *Config) { c.Stream.Memory = 64 << 20; change(c) }, plain("p"))
	r := w.analyst(w.address("p"))
	go io.Copy(io.Discard, struct{ io.Reader }{r.conn})
	w.eventually("the reader", func() bool { return w.listenerStatus("p").Connections == 1 })
	s := newSource(max(b.N, 16), 64<<10, 1400)
	b.SetBytes(int64(len(s.frame)))
	b.ResetTimer()
	cpu := processorTime()
	w.converseFrom(s)
	w.eventually("the disk", func() bool {
		h := w.streamStatus("s/c").History
		return h == nil || h.Pending == 0
	})
	b.StopTimer()
	b.ReportMetric((processorTime()-cpu).Seconds()/(float64(b.N)*float64(len(s.frame))/(1<<30)), "cpu-s/GiB")
}

// BenchmarkCatchUp has an analyst read a history from its beginning.
func BenchmarkCatchUp(b *testing.B) {
	w := newWorld(b, func(c *Config) { c.Stream.Memory, c.Stream.History = leastMemory, 4<<30 }, plain("p", oldest))
	s := newSource(8<<10, 64<<10, 1400) // 512 MiB
	w.converseFrom(s)
	w.eventually("the disk", func() bool { return w.streamStatus("s/c").History.Pending == 0 })
	total := int64(s.first) * 1416
	b.SetBytes(total)
	b.ResetTimer()
	for range b.N {
		r := w.analyst(w.address("p"))
		r.header()
		r.conn.SetReadDeadline(time.Time{})
		if n, err := io.CopyN(io.Discard, r.r, total); err != nil {
			b.Fatalf("after %d bytes: %v", n, err)
		}
		r.conn.Close()
	}
}
