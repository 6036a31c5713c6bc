package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// clientTLS trusts the relay.
func (w *world) clientTLS() *tls.Config {
	w.t.Helper()
	text, err := os.ReadFile(w.path("relay", certs.CAFile))
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// from dials from one of loopback's many addresses.
func from(ip string, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return d.Dial("tcp", address)
}

// TestSilenceAndGarbage: a thousand who say nothing and two hundred who talk
// nonsense, at the intake and at a TLS listener, and sixty handshakes over QUIC
// that stall and come again, keep neither an agent nor an analyst out: they are
// in within a second. The silent are gone after the handshake's time, and memory
// is bounded.
//
// It fails without the gate's eviction of who is silent (transport.Gate.makeRoom,
// where the newcomers are turned away), and without the handshake's deadlines
// (where the silent stay).
func TestSilenceAndGarbage(t *testing.T) {
	w := newWorld(t, "branch-7", "branch-8")
	r := w.startRelay(w.relayTOML("", listenerTOML{"secure", "", "tls = true\n" + plainOldest}))
	ports := []string{r.address("tls"), r.address("secure")}
	before := resident(t, r.process)
	stays := make(chan time.Duration, 1000)
	for i := range cap(stays) {
		conn, err := from(fmt.Sprintf("127.0.%d.%d", 1+i%50, 1+i%2), ports[i%2])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		opened := time.Now()
		go func() {
			io.Copy(io.Discard, conn)
			stays <- time.Since(opened)
		}()
	}
	for i := range 200 {
		conn, err := from(fmt.Sprintf("127.0.%d.3", 1+i%50), ports[i%2])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetWriteDeadline(time.Now().Add(patience))
		conn.Write(garbage(uint64(i))) // it may be refused in the midst
	}
	stalled := w.stallOverQUIC(r, "branch-8", 60)

	for _, scheme := range []string{"tls", "quic"} {
		inWithinASecond(t, "an agent over "+scheme, func() error { return w.greets(r, "branch-7", scheme) })
	}
	inWithinASecond(t, "an analyst", func() error {
		conn, err := readHeader(r.address("secure"), w.clientTLS())
		if err == nil {
			conn.Close()
		}
		return err
	})
	if most := peakMemory(t, r.Cmd.Process.Pid); most > before+256<<20 {
		t.Errorf("the relay has grown from %d to %d MiB", before>>20, most>>20)
	}
	stalled()
	longest := time.Duration(0)
	for range cap(stays) {
		select {
		case d := <-stays:
			longest = max(longest, d)
		case <-time.After(3 * patience):
			t.Fatal("a silent connection stays")
		}
	}
	if longest > 12*time.Second {
		t.Errorf("a silent connection was there for %s", longest)
	}
	r.stop()
}

// inWithinASecond has somebody come in five times in turn, who tries again when
// turned away. Most are in within a second: one alone says more about this
// machine than about the relay.
func inWithinASecond(t *testing.T, who string, enter func() error) {
	t.Helper()
	var took []time.Duration
	for range 5 {
		begin := time.Now()
		eventually(t, who+" is let in", func() bool { return enter() == nil })
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("%s is in after %s", who, took)
	if took[2] > time.Second {
		t.Errorf("%s is in after %s", who, took)
	}
}

// greets has a sensor say hello, and returns when the relay has answered.
func (w *world) greets(r *relay, sensor, scheme string) error {
	w.t.Helper()
	endpoint, err := transport.ParseEndpoint(r.intake(scheme))
	if err != nil {
		w.t.Fatal(err)
	}
	dialer := w.dialer(sensor)
	defer dialer.Close()
	conn, err := dialer.Open(w.t.Context(), endpoint)
	if err != nil {
		return err
	}
	defer conn.Abort()
	conn.SetReadDeadline(time.Now().Add(patience))
	hello := wire.Hello{Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535, Stream: sensor + "/feed"}
	conn.Write(wire.AppendHello(nil, hello)) // what is wrong with it, Flush says as well
	if err := conn.Flush(); err != nil {
		return err
	}
	var head [wire.FrameHeaderLen]byte
	h, err := wire.ReadHeader(conn, &head)
	if err == nil && h.Type != wire.TypeHelloAck {
		err = fmt.Errorf("answered by a frame of type %d", h.Type)
	}
	return err
}

// stallOverQUIC keeps so many handshakes waiting for a certificate that does not
// come. When they are given up, others begin, until end is called.
func (w *world) stallOverQUIC(r *relay, sensor string, count int) (end func()) {
	w.t.Helper()
	endpoint, err := transport.ParseEndpoint(r.intake("quic"))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for range count {
		dialer := w.dialer(sensor)
		dialer.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		all.Go(func() {
			defer dialer.Close()
			for ctx.Err() == nil {
				if conn, err := dialer.Open(ctx, endpoint); err == nil {
					conn.Abort()
				}
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// TestFloodsOfHandshakes: TLS 1.2 and 1.3 handshakes, of strangers at the intake
// and of anybody at a listener, and Initials of QUIC, cost an established
// stream nothing; and whoever sends Initials in another's name has less sent
// there than was sent. It fails without VerifySourceAddress (transport,
// ServeQUIC), which makes quic-go answer with three times as much.
func TestFloodsOfHandshakes(t *testing.T) {
	w := newWorld(t, "branch-7")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}, listenerTOML{"secure", "", "tls = true\n" + plainLive}))
	f := w.startFeed(r, "branch-7", "quic")
	reader := startReader(t, r.address("plain"))
	f.packet()
	reader.until(func(n int) bool { return n == 1 })

	ctx, end := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var shaken atomic.Int64
	trust := w.clientTLS()
	for i, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, address := range []string{r.address("secure"), r.address("tls")} {
			config := trust.Clone()
			config.MaxVersion, config.NextProtos = version, []string{transport.ALPN}
			if address == r.address("secure") {
				config.NextProtos = nil
			}
			flood.Go(func() {
				for ctx.Err() == nil {
					if conn, err := from(fmt.Sprintf("127.0.2.%d", 1+i), address); err == nil {
						conn.SetDeadline(time.Now().Add(patience))
						tls.Client(conn, config).Handshake()
						conn.Close()
						shaken.Add(1)
					}
				}
			})
		}
	}
	initial := initialOf(t, r)
	var in, out atomic.Int64
	flood.Go(func() {
		for ctx.Err() == nil {
			sent, heard := deaf(t, r.address("quic"), initial)
			in.Add(sent)
			out.Add(heard)
		}
	})
	const packets = 300
	for i := range packets {
		f.packet()
		if i%10 == 0 {
			time.Sleep(20 * time.Millisecond) // so that the flood is long
		}
	}
	inOrder(t, reader.until(func(n int) bool { return n == 1+packets }))
	eventually(t, "a flood", func() bool { return shaken.Load() > 50 && in.Load() > 50*1200 })
	end()
	flood.Wait()
	t.Logf("%d handshakes, %d bytes of Initials, %d bytes of answers", shaken.Load(), in.Load(), out.Load())
	if out.Load() > in.Load() {
		t.Errorf("%d bytes of Initials were answered by %d bytes", in.Load(), out.Load())
	}
	if out.Load() == 0 {
		t.Error("no Initial was answered: this proves nothing")
	}
	if n := r.Count(func(l logLine) bool { return l["msg"] == "agent has gone; its stream waits for it" }); n != 0 {
		t.Error("the flood has ended the agent's session")
	}
	r.stop()
}

// initialOf catches the first datagram of an agent that dials: a valid Initial.
func initialOf(t *testing.T, r *relay) []byte {
	t.Helper()
	trap, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	dialer := &transport.Dialer{TLS: &tls.Config{NextProtos: []string{transport.ALPN}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	defer dialer.Close()
	endpoint, err := transport.ParseEndpoint("quic://" + trap.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := dialer.Open(ctx, endpoint); err == nil {
			conn.Abort()
		}
	}()
	defer func() { cancel(); <-done }()
	b := make([]byte, 2048)
	trap.SetReadDeadline(time.Now().Add(patience))
	n, _, err := trap.ReadFrom(b)
	if err != nil || n < 1200 {
		t.Fatalf("%d bytes of an Initial, %v", n, err)
	}
	return b[:n]
}

// deaf sends an Initial a few times from a port of its own, answers nothing,
// and counts.
func deaf(t *testing.T, address string, initial []byte) (sent, heard int64) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Error(err)
		return 0, 0
	}
	defer conn.Close()
	for range 10 {
		if n, err := conn.Write(initial); err == nil {
			sent += int64(n)
		}
	}
	b := make([]byte, 2048)
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		n, err := conn.Read(b)
		if err != nil {
			return sent, heard
		}
		heard += int64(n)
	}
}
