package poiptest

import (
	"os"
	"strings"
	"testing"
)

// received is the interface's own counter of what came in.
func received(t testing.TB, ifname string) string {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(b), ifname+":")
	return strings.Fields(line)[1]
}

func TestGeneratorSendsWhatItSays(t *testing.T) {
	RunInNetns(t, func() {
		Veth(t, "vA", "vB", 1500)
		for _, length := range []int{MinGenerated, 64, 1400} {
			g, err := NewGenerator("vA", length)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.Send(1000, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Send(10, 1000); err != nil {
				t.Fatal(err)
			}
			if g.Sent() != 1010 {
				t.Errorf("sent %d of 1010", g.Sent())
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
		WaitUntil(t, "3030 frames on vB", func() bool { return received(t, "vB") == "3030" })
	})
}

func BenchmarkGenerator(b *testing.B) {
	RunInNetns(b, func() {
		Veth(b, "vA", "vB", 1500)
		g, err := NewGenerator("vA", 64)
		if err != nil {
			b.Fatal(err)
		}
		defer g.Close()
		for b.Loop() { // which, unlike b.N, sets the link up just once
			if _, err := g.Send(1000, 0); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(g.Sent())/b.Elapsed().Seconds(), "frames/s")
	})
}
