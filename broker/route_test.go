package broker

import (
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

func TestPacketsReachAnalysts(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	early := w.analyst(w.address("p"))
	a := w.agent("branch-7/eth0")
	if snaplen, link := early.header(); snaplen != 65535 || link != pcap.LinkEthernet {
		t.Errorf("header: snaplen %d, link type %d", snaplen, link)
	}
	a.packets("one", "two")
	early.want("one", "two")

	late := w.analyst(w.address("p"))
	late.header()
	w.eventually("the late analyst", func() bool { return w.listenerStatus("p").Connections == 2 })
	a.packets("three")
	early.want("three")
	late.want("three")
	a.acked(3)

	if s := w.streamStatus("branch-7/eth0"); s.Received != 3 || s.State != "live" || s.Position != 3 {
		t.Errorf("stream: %+v", s)
	}
	w.eventually("the ledger", func() bool {
		l := w.listenerStatus("p")
		return l.Sent == 4 && l.Offered == 4 && l.Pending == 0
	})
}

func TestTimesAndLengths(t *testing.T) {
	w := newWorld(t, nil, plain("us"),
		plain("ns", func(l *ListenerConfig) { l.Format, l.Snaplen = "pcap-ns", pcap.MaxCaptured }),
		plain("cut", func(l *ListenerConfig) { l.Snaplen = 4 }),
		plain("nscut", func(l *ListenerConfig) { l.Format, l.Snaplen = "pcap-ns", 4 }))
	us, ns, cut, nscut := w.analyst(w.address("us")), w.analyst(w.address("ns")), w.analyst(w.address("cut")), w.analyst(w.address("nscut"))
	a := w.agent("s/c")
	a.packets("ab", "abcdefgh", "xy")
	for _, c := range []struct {
		a       *analyst
		snaplen int
		divide  uint32
	}{{us, 65535, 1000}, {ns, pcap.MaxCaptured, 1}, {cut, 4, 1000}, {nscut, 4, 1}} {
		if snaplen, _ := c.a.header(); int(snaplen) != c.snaplen || c.a.nano != (c.divide == 1) {
			t.Errorf("header: snaplen %d, nanoseconds %t", snaplen, c.a.nano)
		}
		for i, want := range []string{"ab", "abcdefgh", "xy"} {
			sec, nsec := testTime(wire.PacketNumber(i))
			got, err := c.a.record()
			if err != nil {
				t.Fatal(err)
			}
			if (got != record{sec, nsec / c.divide, uint32(len(want)), want[:min(len(want), c.snaplen)]}) {
				t.Errorf("snaplen %d: packet %d is %+v", c.snaplen, i, got)
			}
		}
	}
}

func TestDrain(t *testing.T) {
	w := newWorld(t, nil, plain("p"))
	r := w.analyst(w.address("p"))
	a := w.agent("s/c")
	a.packets("one", "two")
	a.acked(2)
	go w.stop()
	if got := a.refused(); got.Code != wire.CodeDraining {
		t.Errorf("agent was told %v", got)
	}
	r.header()
	r.want("one", "two")
	r.ends()
	begin := time.Now()
	w.stop()
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %s although everybody went", took)
	}
}

// TestDrainWaitsForNobodyTooLong: startWorld holds Run to five seconds.
func TestDrainWaitsForNobodyTooLong(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Stream.Memory = 16 << 20 }, plain("p"), plain("tls", func(l *ListenerConfig) { l.TLS = true }),
		plain("block", func(l *ListenerConfig) { l.Overflow = "block" }))
	reader := w.analyst(w.address("p"))
	a := w.agent("s/c")
	reader.header()
	for _, stalled := range []*analyst{w.either("p", false), w.either("tls", true), w.either("block", false)} {
		stalled.header()
	}
	w.analyst(w.address("tls")) // says nothing at all
	w.dial("t")
	for i := range 4000 { // less than the window
		a.packets(payload(i))
	}
	if got := reader.numbers(3999); got != 3999 {
		t.Errorf("got %d packets of 4000", got+1)
	}
	go w.stop()
	reader.ends()
	w.stop()
}
