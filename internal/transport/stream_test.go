package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/auth"
	"poip/internal/poiptest"
	"poip/internal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relay serves handle on loopback until the test ends.
func relay(tb testing.TB, network string, cfg *tls.Config, opts transport.ServeOptions, handle func(context.Context, transport.Conn)) transport.Endpoint {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	ep := transport.Endpoint{Scheme: network, Host: "127.0.0.1"}
	if network == "tls" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(tb, err)
		ep.Port = uint16(ln.Addr().(*net.TCPAddr).Port)
		go func() { served <- transport.ServeTLS(ctx, ln, cfg, opts, handle) }()
		return ep
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(tb, err)
	ep.Port = uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	go func() { served <- transport.ServeQUIC(ctx, pc, cfg, opts, handle) }()
	return ep
}

func dialer(tb testing.TB, cfg *tls.Config) *transport.Dialer {
	d := &transport.Dialer{TLS: cfg}
	tb.Cleanup(func() { d.Close() })
	return d
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}

// both runs a test over TLS and over QUIC.
func both(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range []string{"tls", "quic"} {
		t.Run(network, func(t *testing.T) { test(t, network) })
	}
}

// opened is one stream: the agent's end, and the relay's, which stays open
// until the relay's end is closed.
func opened(t *testing.T, network string) (agent, relays transport.Conn) {
	t.Helper()
	ca := poiptest.NewCA(t)
	conns, closed := make(chan transport.Conn), make(chan struct{})
	ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{}, func(_ context.Context, c transport.Conn) {
		conns <- c
		<-closed
	})
	t.Cleanup(func() { close(closed) })
	agent, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
	must(t, err)
	send(t, agent, []byte{1}) // a QUIC stream is seen when something is sent on it
	relays = <-conns
	_, err = relays.Read(make([]byte, 1))
	must(t, err)
	return agent, relays
}

func send(t testing.TB, c transport.Conn, p []byte) {
	t.Helper()
	_, err := c.Write(p)
	must(t, err)
	must(t, c.Flush())
}

func TestBytesArriveWhateverTheSizes(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		var sums [2][2]uint32
		way := func(from, to transport.Conn, sums *[2]uint32) func() {
			return func() {
				var ends sync.WaitGroup
				ends.Go(func() { sums[0] = sendNoise(t, from, 20<<20) })
				ends.Go(func() { sums[1] = receive(t, to, 20<<20) })
				ends.Wait()
			}
		}
		var ways sync.WaitGroup
		ways.Go(way(agent, relays, &sums[0]))
		ways.Go(way(relays, agent, &sums[1]))
		ways.Wait()
		for _, s := range sums {
			if s[0] != s[1] {
				t.Errorf("sent %08x, received %08x", s[0], s[1])
			}
		}
		closeBoth(t, agent, relays)
	})
}

// sendNoise writes total bytes in pieces of very different sizes.
func sendNoise(t *testing.T, c transport.Conn, total int) uint32 {
	sum, data := crc32.NewIEEE(), noise(600_000)
	for sent := 0; sent < total; {
		p := data[:min(1+rand.IntN(1<<rand.IntN(20)), len(data), total-sent)]
		if _, err := c.Write(p); err != nil {
			t.Errorf("write: %v", err)
			return 0
		}
		if rand.IntN(10) == 0 {
			if err := c.Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
		sum.Write(p)
		sent += len(p)
	}
	if err := c.Flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	return sum.Sum32()
}

func receive(t *testing.T, c transport.Conn, total int) uint32 {
	sum, buf := crc32.NewIEEE(), make([]byte, 600_000)
	for got := 0; got < total; {
		n, err := c.Read(buf[:1+rand.IntN(1<<rand.IntN(20))%len(buf)])
		if err != nil {
			t.Errorf("read: %v", err)
			return 0
		}
		sum.Write(buf[:n])
		got += n
	}
	return sum.Sum32()
}

// closeBoth closes the ends as an agent and a relay do: one first.
func closeBoth(t *testing.T, first, second transport.Conn) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- first.Close() }()
	if n, err := second.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the other end reads %d, %v; want a clean end", n, err)
	}
	must(t, second.Close())
	must(t, <-done)
}

func TestCloseEndsCleanlyFromEitherSide(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		start := time.Now()
		closeBoth(t, relays, agent)
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		if _, err := agent.Write([]byte("x")); err == nil {
			if err = agent.Flush(); err == nil {
				t.Error("a closed Conn takes bytes")
			}
		}
	})
}

// Everything that was written arrives although Close follows at once, and
// although the other side is sending itself and does not read soon.
func TestCloseDeliversEverything(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		want := noise(3 << 20)
		var ends sync.WaitGroup
		ends.Go(func() {
			if _, err := relays.Write(want); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := relays.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		send(t, agent, noise(300_000)) // nobody reads these
		got, err := io.ReadAll(agent)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d arrived, %v", len(got), len(want), err)
		}
		must(t, agent.Close())
		ends.Wait()
	})
}

// Close comes back although the peer neither reads nor closes, and although
// another goroutine waits in Write or Read.
func TestCloseIsBounded(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, _ := opened(t, network)
		var ends sync.WaitGroup
		ends.Go(func() {
			for chunk := noise(1 << 20); ; {
				if _, err := agent.Write(chunk); err != nil {
					return
				}
			}
		})
		ends.Go(func() { agent.Read(make([]byte, 1)) })
		time.Sleep(200 * time.Millisecond) // by then the writer is stuck
		start := time.Now()
		agent.Close()
		ends.Wait()
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestAbortIsImmediate(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		read := make(chan error)
		for _, c := range []transport.Conn{agent, relays} {
			go func() {
				_, err := c.Read(make([]byte, 1))
				read <- err
			}()
		}
		start := time.Now()
		must(t, agent.Abort())
		for range 2 {
			if err := <-read; err == nil || err == io.EOF {
				t.Errorf("read: %v; want an error that is no clean end", err)
			}
		}
		agent.Close()
		relays.Close()
		if took := time.Since(start); took > 1500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

func TestDeadlines(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		must(t, agent.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		if _, err := agent.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		must(t, agent.SetReadDeadline(time.Time{}))
		send(t, relays, []byte("still here"))
		got := make([]byte, 10)
		_, err := io.ReadFull(agent, got)
		must(t, err)

		must(t, agent.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
		for err == nil {
			_, err = agent.Write(noise(1 << 20))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		agent.Abort()
		relays.Abort()
	})
}

// A reader that publishes when it is told of a wait never sits on anything:
// the writer sends the next piece only when the last is published.
func TestBeforeWaitLeavesNothingUnpublished(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		published := make(chan int, 1)
		var reader sync.WaitGroup
		reader.Go(func() {
			total, told := 0, 0
			relays.BeforeWait(func() {
				if total > told {
					told = total
					published <- total
				}
			})
			for buf := make([]byte, 100_000); ; {
				n, err := relays.Read(buf[:1+rand.IntN(len(buf))])
				total += n
				if err != nil {
					return
				}
			}
		})
		for sent, piece := 0, noise(1<<18); sent < 20<<20; {
			n := 1 + rand.IntN(1<<rand.IntN(19))
			send(t, agent, piece[:n])
			sent += n
			for got := 0; got < sent; {
				select {
				case got = <-published:
				case <-time.After(5 * time.Second):
					t.Fatalf("%d bytes sent, the reader sits on the last of them", sent)
				}
			}
		}
		agent.Abort()
		reader.Wait()
		relays.Abort()
	})
}

// Whoever is told of a wait may end the Conn, or wait for somebody who does.
func TestAbortFromBeforeWait(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		relays.BeforeWait(func() {
			aborted := make(chan error)
			go func() { aborted <- relays.Abort() }()
			must(t, <-aborted)
		})
		if _, err := relays.Read(make([]byte, 1)); err == nil {
			t.Error("it reads on")
		}
		agent.Abort()
	})
}

func TestAConnSaysWhatItIs(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		for _, c := range []transport.Conn{agent, relays} {
			state := c.TLS()
			if c.Network() != network || c.Congestion() == "" || state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != transport.ALPN {
				t.Errorf("%s, %q, %v", c.Network(), c.Congestion(), state.NegotiatedProtocol)
			}
		}
		if agent.LocalAddr().String() != relays.RemoteAddr().String() && network == "tls" {
			t.Errorf("%s dialed, %s accepted", agent.LocalAddr(), relays.RemoteAddr())
		}
		if name, err := auth.SensorOf(relays.TLS().PeerCertificates[0]); name != "branch-7" {
			t.Errorf("identity %q, %v", name, err)
		}
		closeBoth(t, agent, relays)
	})
}
