package capture

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// prepared runs a capture in a thread without capabilities, again and again
// when it breaks off, as an agent does.
type prepared struct {
	runs   chan *running // each run's beginning
	broken chan error    // each run's end
}

func runPrepared(t *testing.T, i *Interface) *prepared {
	t.Helper()
	must(t, i.Prepare(context.Background()))
	ctx, cancel := context.WithCancel(context.Background())
	p := &prepared{make(chan *running, 8), make(chan error, 8)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		dropCapabilities()
		if err := Permitted(); !errors.Is(err, unix.EPERM) {
			t.Errorf("new sockets are not refused: %v", err)
		}
		for ctx.Err() == nil {
			err := i.Run(ctx, func(info Info) Sink {
				c := &running{recorder: &recorder{info: info}}
				p.runs <- c
				return c.recorder
			})
			select {
			case p.broken <- err:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// await passes over the ends of runs until one has such words.
func (p *prepared) await(t *testing.T, words string) {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case err := <-p.broken:
			if err != nil && strings.Contains(err.Error(), words) {
				return
			}
		case <-deadline:
			t.Fatalf("no run of the capture has ended with %q", words)
		}
	}
}

// An interface may come late, go, and come back as another kind: all of that is
// captured without any capability after Prepare. It fails when Interface.filter
// or Interface.descriptor does not take what was prepared, or Interface.keep
// closes it.
func TestPreparedInterfaceNeedsNoCapability(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "p" + string(latency[:1])
		log := new(poiptest.Log)
		p := runPrepared(t, &Interface{
			Name: pair + "B", Latency: latency, Promiscuous: true, Filter: "vlan or udp",
			Log: slog.New(slog.NewTextHandler(log, nil)),
		})
		poiptest.WaitUntil(t, "the capture to wait", func() bool { return strings.Contains(log.String(), "does not exist") })
		frame := sampleFrames()["VLAN"]
		for range 2 { // the second time through the sockets and the ring of the first
			poiptest.Veth(t, pair+"A", pair+"B", 1500)
			c := <-p.runs
			for c.info.LinkType != pcap.LinkEthernet { // it may have looked as one went and the other came
				c = <-p.runs
			}
			from := newInjector(t, pair+"A")
			poiptest.WaitUntil(t, "a packet", func() bool { // the first ones may be too early
				from.send(sampleFrames()["ARP"], frame)
				return len(c.flushed()) > 0
			})
			if got := c.flushed(); string(got[0].data) != string(frame) {
				t.Errorf("captured % x", got[0].data)
			}
			must(t, poiptest.IP("link del "+pair+"A"))
			tun := openTun(t, pair+"B")
			if tun == nil {
				return
			}
			p.await(t, "link type has changed")
			p.await(t, "no VLAN support") // for packets without a link header
			tun.Close()
			poiptest.WaitUntil(t, "the tunnel to be gone", func() bool { // a child that is being started may still hold it
				_, err := net.InterfaceByName(pair + "B")
				return err != nil
			})
		}
	})
}

func TestPreparedInterfaceChangesItsKind(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "k" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 1500)
		p := runPrepared(t, &Interface{Name: pair + "B", Latency: latency, Filter: "udp", Log: slog.New(slog.DiscardHandler)})
		<-p.runs
		must(t, poiptest.IP("link del "+pair+"A"))
		tun := openTun(t, pair+"B")
		if tun == nil {
			return
		}
		<-p.broken
		c := <-p.runs
		want := ip4("192.0.2.1", "192.0.2.2", 17, 0, 0, udp(7, 9, payload(1, 100)))
		poiptest.WaitUntil(t, "a packet of the other kind", func() bool { // the first ones are too early
			_, err := tun.Write(want)
			must(t, err)
			return len(c.flushed()) > 0
		})
		if got := c.flushed(); string(got[0].data) != string(want) || c.info.LinkType != pcap.LinkRaw {
			t.Errorf("captured % x of %v", got[0].data, c.info.LinkType)
		}
	})
}

// What is wrong is known before privileges are gone; what cannot be known yet
// is no error.
func TestPrepareSaysWhatIsWrong(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		for _, c := range []struct{ name, filter, reason string }{
			{"lo", "tcp and", "syntax error"},
			{"", "", "1 to 15 characters"},
			{"absent", "type mgt", ""},
			{"lo", "udp", ""},
		} {
			i := &Interface{Name: c.name, Filter: c.filter}
			err := i.Prepare(context.Background())
			if c.reason == "" && err != nil || c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason)) {
				t.Errorf("%+v: %v", c, err)
			}
			i.release()
		}
	})
}
