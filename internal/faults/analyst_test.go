//go:build faults

package faults

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// An analyst reads what a listener sends, and counts.
type analyst struct {
	conn  net.Conn
	got   atomic.Uint64
	done  chan struct{}
	wrong error // set before done is closed: what was not as it should be
}

// follow connects and reads for as long as the connection lasts.
func follow(t *testing.T, address string) *analyst {
	t.Helper()
	a := connect(t, address)
	a.read()
	return a
}

// connect connects, and reads nothing yet.
func connect(t *testing.T, address string) *analyst {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	a := &analyst{conn: conn, done: make(chan struct{})}
	t.Cleanup(func() { conn.Close() })
	return a
}

// read begins to read.
func (a *analyst) read() {
	go func() {
		defer close(a.done)
		a.wrong = a.collect()
	}()
}

func (a *analyst) collect() error {
	packets, err := pcap.NewReader(a.conn)
	if err != nil {
		return fmt.Errorf("read the file header: %w", err)
	}
	for last := int64(-1); ; {
		p, err := packets.Next()
		if err != nil {
			return nil // however the connection ended
		}
		counter, ok := counterOf(p.Data)
		if !ok || int64(counter) <= last {
			return fmt.Errorf("packet %d comes after packet %d", counter, last)
		}
		last = int64(counter)
		a.got.Add(1)
	}
}

func (a *analyst) count() uint64 { return a.got.Load() }

// close hangs up, and waits.
func (a *analyst) close() {
	a.conn.Close()
	<-a.done
}

// TestStoppedAnalyst: one of five reads nothing. The four others get everything;
// the relay's memory stays within bounds; and the one catches up from history
// when it goes on.
func TestStoppedAnalyst(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{stream: `memory = "8MiB"`})
		s.start()
		before := s.rest()
		stopped := connect(t, livePort)
		var others []*analyst
		for range 4 {
			others = append(others, follow(t, livePort))
		}
		const all = 150_000 // 66 MB, to each
		s.source.trickle(all)
		eventually(t, "the others have everything", func() bool {
			for _, a := range others {
				if a.count() != all {
					return false
				}
			}
			return true
		})
		if peak := s.relay.memory("VmHWM"); peak > 8<<20+160<<20 {
			t.Errorf("the relay's memory reached %d MiB with a ring of 8 MiB", peak>>20)
		}
		stopped.read()
		eventually(t, "the one that was stopped has everything", func() bool { return stopped.count() == all })
		if n := s.relay.metrics().Sum("poip_relay_skipped_packets_total"); n != 0 {
			t.Errorf("%v packets were skipped that history had", n)
		}
		b := s.reckon()
		b.without(t)
		s.agree(b)
		for _, a := range append(others, stopped) {
			if a.close(); a.wrong != nil {
				t.Error(a.wrong)
			}
		}
		s.rested(before)
	})
}

// TestAnalystsComeAndGo: a thousand of them connect, read a little and are
// killed, five times.
func TestAnalystsComeAndGo(t *testing.T) {
	t.Parallel()
	poiptest.RunInNetns(t, func() {
		s := newSite(t, plan{})
		s.start()
		stop := s.source.flow(1000)
		eventually(t, "there is something to read", func() bool { return s.relay.received() > 0 })
		before := s.rest()
		const rounds, crowd = 5, 1000 // max_connections is 1024
		for range rounds {
			var gone sync.WaitGroup
			failed := make(chan error, crowd)
			for range crowd {
				gone.Go(func() {
					if err := glance(livePort); err != nil {
						failed <- err
					}
				})
			}
			gone.Wait()
			close(failed)
			for err := range failed {
				t.Fatalf("an analyst: %v", err)
			}
			eventually(t, "all are gone", func() bool { return s.relay.metrics().Sum("poip_relay_connections") == 0 })
		}
		stop()
		b := s.reckon()
		b.without(t)
		s.agree(b)
		s.rested(before)
	})
}

// glance reads a header and three whole packets, and hangs up with a reset.
func glance(address string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0)
	conn.SetReadDeadline(time.Now().Add(patience))
	packets, err := pcap.NewReader(conn)
	if err != nil {
		return fmt.Errorf("no header: %w", err)
	}
	for n := range 3 {
		p, err := packets.Next()
		if err != nil {
			return fmt.Errorf("packet %d: %w", n, err)
		}
		if _, ok := counterOf(p.Data); !ok {
			return fmt.Errorf("packet %d is not the source's", n)
		}
	}
	return nil
}
