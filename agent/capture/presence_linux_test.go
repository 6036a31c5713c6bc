package capture

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"poip/internal/poiptest"
)

func TestInterfaceNeedsPermission(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		type outcome struct{ run, permitted error }
		done := make(chan outcome)
		go func() {
			runtime.LockOSThread()
			dropCapabilities()
			i := &Interface{Name: "lo", Filter: "tcp", Log: slog.New(slog.DiscardHandler)}
			done <- outcome{i.Run(context.Background(), nil), Permitted()}
		}()
		got := <-done
		for _, err := range []error{got.run, got.permitted} {
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "setcap cap_net_raw+ep /") {
				t.Errorf("without capabilities: %v", err)
			}
		}
		if err := Permitted(); err != nil {
			t.Errorf("with capabilities: %v", err)
		}
	})
}

// count is how often the capture logged a line with such words.
func (c *running) count(words string) int { return strings.Count(c.log.String(), words) }

func (c *running) awaitLog(t *testing.T, words string, times int) {
	t.Helper()
	poiptest.WaitUntil(t, words, func() bool { return c.count(words) == times })
}

func TestInterfaceGoesOnAfterDown(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		c := startCapture(t, &Interface{Name: pair + "B", Latency: latency})
		from := newInjector(t, pair+"A")
		frame := sampleFrames()["64 bytes"]
		for k := range 3 {
			from.send(frame)
			c.await(t, k+1)
			must(t, poiptest.IP("link set "+pair+"B down"))
			c.awaitLog(t, "is down", k+1)
			before := cpuTime(t)
			time.Sleep(50 * time.Millisecond)
			if spent := cpuTime(t) - before; spent > 25*time.Millisecond {
				t.Errorf("while the interface was down for 50 ms, %v of processor time went by", spent)
			}
			must(t, poiptest.IP("link set "+pair+"B up"))
			poiptest.AwaitLink(t, pair+"A")
			c.awaitLog(t, "goes on", k+1)
		}
		from.send(frame)
		c.await(t, 4)
		expectFrames(t, c.stop(t), [][]byte{frame, frame, frame, frame})
	})
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A new interface of the same name is captured by the same socket, without any
// capability.
func TestInterfaceGoesOnWhenRecreated(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		x := new(Exclusions)
		i := &Interface{Name: pair + "B", Latency: latency, Promiscuous: true, Filter: "udp", Exclude: x}
		c := startCaptureThen(t, i, dropCapabilities)
		frame, other := sampleFrames()["VLAN"], sampleFrames()["64 bytes"]
		var want [][]byte
		for k := range 3 {
			newInjector(t, pair+"A").send(frame, sampleFrames()["ARP"])
			want = append(want, frame)
			c.await(t, len(want))
			if !promiscuous(t, pair+"B") {
				t.Errorf("round %d: the interface is not in promiscuous mode", k)
			}
			must(t, poiptest.IP("link del "+pair+"A"))
			c.awaitLog(t, "does not exist", k+1)
			poiptest.Veth(t, pair+"A", pair+"B", 1500)
			c.awaitLog(t, "goes on", k+1)
		}
		must(t, x.Add("udp", addrPort("192.0.2.2:9")))
		newInjector(t, pair+"A").send(other)
		must(t, x.Add("udp", addrPort("192.0.2.3:9")))
		time.Sleep(3 * blockTimeout)
		expectFrames(t, c.stop(t), want[:3])
		if c.restarts != 3 {
			t.Errorf("%d gaps stand for 3 times that the interface was away", c.restarts)
		}
	})
}

func promiscuous(t *testing.T, ifname string) bool {
	t.Helper()
	w, err := newLinkWatch(ifname)
	must(t, err)
	defer w.close()
	// IFF_PROMISC shows what the administrator wanted, not what sockets want;
	// that is in the counter that ip prints.
	out, err := ipOutput("-d", "link", "show", ifname)
	must(t, err)
	return strings.Contains(out, "promiscuity 1 ")
}

// Replaced faster than the capture can look: same name, same index.
func TestInterfaceNoticesATwin(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		const twin = "link add vA type veth peer name vB index 77"
		must(t, poiptest.IP(twin, "link set vA up", "link set vB up"))
		poiptest.AwaitLink(t, "vA")
		c := startCapture(t, &Interface{Name: "vB"})
		frame := sampleFrames()["64 bytes"]
		newInjector(t, "vA").send(frame)
		c.await(t, 1)
		must(t, ipBatch("link del vA", twin, "link set vA up", "link set vB up"))
		poiptest.AwaitLink(t, "vA")
		poiptest.WaitUntil(t, "the twin to be captured", func() bool { return boundSockets(t) == 1 })
		newInjector(t, "vA").send(frame)
		c.await(t, 2)
		expectFrames(t, c.stop(t), [][]byte{frame, frame})
	})
}

func TestInterfaceIsWaitedForAtStart(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		c := launchCapture(t, &Interface{Name: pair + "B", Latency: latency, Filter: "udp or vlan"}, func() {})
		c.awaitLog(t, "does not exist", 1)
		must(t, poiptest.IP("link add "+pair+"A type veth peer name "+pair+"B", "link set "+pair+"A up"))
		c.awaitLog(t, "is down", 1)
		must(t, poiptest.IP("link set "+pair+"B up"))
		poiptest.AwaitLink(t, pair+"A")
		c.awaitLog(t, "goes on", 1)
		frame := sampleFrames()["VLAN"]
		newInjector(t, pair+"A").send(frame)
		c.await(t, 1)
		expectFrames(t, c.stop(t), [][]byte{frame})
		if n := strings.Count(c.log.String(), "\n"); n != 3 {
			t.Errorf("logged %d lines:\n%s", n, c.log)
		}
	})
}

func TestInterfaceEndsWhileWaiting(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		c := launchCapture(t, &Interface{Name: "never"}, func() {})
		c.awaitLog(t, "does not exist", 1)
		c.stop(t)
	})
}

func TestInterfaceEndsWhenItsLinkTypeChanges(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		poiptest.Veth(t, "changing", "peer", 1500)
		c := startCapture(t, &Interface{Name: "changing"})
		must(t, poiptest.IP("link del changing"))
		c.awaitLog(t, "does not exist", 1)
		if openTun(t, "changing") == nil {
			return
		}
		err := <-c.done
		if err == nil || !strings.Contains(err.Error(), "changed from EN10MB to RAW") {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestInterfaceCheck(t *testing.T) {
	for _, good := range []Interface{
		{Name: "lo"},
		{Name: "absent", Filter: "vlan 5 and inbound", Direction: DirectionIn, Latency: LatencyLow},
		{Name: AnyInterface, Filter: "host 192.0.2.1 and outbound", Direction: DirectionOut},
		{Name: "lo", Program: rejectAll},
	} {
		if err := good.Check(context.Background()); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, c := range []struct {
		bad    Interface
		reason string
	}{
		{Interface{}, "1 to 15 characters"},
		{Interface{Name: "lo", Filter: "tcp and"}, "syntax error"},
		{Interface{Name: "lo", Filter: "host example.com"}, "example.com"},
		{Interface{Name: AnyInterface, Filter: "vlan 5"}, "no VLAN support"},
		{Interface{Name: AnyInterface, Filter: "link[8:2] = 1"}, "byte 8"},
		{Interface{Name: "lo", Direction: "inout"}, "inout"},
		{Interface{Name: "lo", Latency: "lowest"}, "lowest"},
		{Interface{Name: "lo", Program: make([]bpf.RawInstruction, 1)}, "return"},
		{Interface{Name: AnyInterface, Program: []bpf.RawInstruction{{Op: 0x28, K: 8}, {Op: opRetK}}}, "byte 8"},
	} {
		if err := c.bad.Check(context.Background()); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%+v: %v, want %s", c.bad, err, c.reason)
		}
	}
}

func TestInterfaceRefusesBadNames(t *testing.T) {
	for _, name := range []string{"", "a-name-of-16-char"} {
		i := &Interface{Name: name, Log: slog.New(slog.DiscardHandler)}
		if err := i.Run(context.Background(), nil); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
}

// A packet leaves although no other one follows. How soon is for make bench to
// say; here it is only bounded, far from what a busy machine may add.
func TestInterfaceDelay(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		c := startCapture(t, &Interface{Name: pair + "B", Latency: latency})
		from := newInjector(t, pair+"A")
		var delays []time.Duration
		for k := range 51 {
			sent := time.Now()
			from.send(sampleFrames()["64 bytes"])
			c.await(t, k+1)
			delays = append(delays, c.lastFlush().Sub(sent))
		}
		slices.Sort(delays)
		if median, limit := delays[len(delays)/2], 20*blockTimeout; median > limit {
			t.Errorf("half of the packets take %v or more to leave, want %v at most", median, limit)
		}
	})
}
