package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"poip/internal/wire"
)

// realSession is what an agent says in a short life: an epoch, packets, a gap,
// its counters, the epoch's end.
func realSession(stream string) []byte {
	var all []byte
	all = wire.AppendHello(all, greeting1(stream))
	all = append(all, batchOf(0, "one", "two", "three")...)
	all = wire.AppendGap(all, wire.Gap{First: 3, Count: 2, Cause: wire.CauseKernelDrop, Earliest: 1, Latest: 2})
	all = wire.AppendStats(all, wire.Stats{Captured: 5, Lost: 2})
	all = append(all, batchOf(5, "six")...)
	return wire.AppendEnd(all, wire.End{Next: 6, Final: true})
}

// bystander is a sensor that sends a packet whenever it is called, and returns
// the number of the next one.
func bystander(w *world) func(t *testing.T) wire.PacketNumber {
	config := w.ca.AgentTLS("good")
	config.ServerName = "127.0.0.1"
	return func(t *testing.T) wire.PacketNumber {
		w.t = t
		conn, err := tls.Dial("tcp", w.tcp.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		a := &agent{t: t, conn: conn, r: bufio.NewReader(conn)}
		a.next = a.hello("good/eth0").Position
		a.packets("still here")
		a.acked(a.next)
		return a.next
	}
}

// mutated is one of the seeds, changed here and there as a fuzzer would: bytes
// flipped, ranges taken out, repeated or replaced, the end cut off.
func mutated(t *rapid.T, seeds [][]byte) []byte {
	b := bytes.Clone(rapid.SampledFrom(seeds).Draw(t, "seed"))
	for range rapid.IntRange(0, 6).Draw(t, "changes") {
		if len(b) == 0 {
			break
		}
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		end := min(len(b), at+rapid.IntRange(1, 40).Draw(t, "length"))
		switch rapid.SampledFrom([]string{"flip", "remove", "repeat", "replace", "cut", "insert"}).Draw(t, "change") {
		case "flip":
			b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case "remove":
			b = slices.Delete(b, at, end)
		case "repeat":
			b = slices.Insert(b, end, bytes.Clone(b[at:end])...)
		case "replace":
			copy(b[at:end], rapid.SliceOfN(rapid.Byte(), end-at, end-at).Draw(t, "bytes"))
		case "cut":
			b = b[:at]
		case "insert":
			b = slices.Insert(b, at, rapid.SampledFrom(seeds).Draw(t, "other")...)
		}
	}
	return b
}

// The whole relay, from the socket on, is fed with changed sessions of a sensor
// that is let in and means ill. Whatever it says, it gets an end, a stream of
// another sensor is not disturbed, and the ledger stays sound.
func TestMutatedSessionsHurtNobody(t *testing.T) {
	w := newWorld(t, nil, plain("all", func(l *ListenerConfig) { l.Start = "oldest" }))
	agentTLS := w.ca.AgentTLS("evil")
	agentTLS.ServerName = "127.0.0.1"
	good := bystander(w)
	seeds := [][]byte{
		realSession("evil/eth0"), realSession("evil/eth1"), realSession("good/eth0"),
		wire.AppendHello(wire.AppendEnd(wire.AppendHello(nil, greeting1("evil/a")), wire.End{}), greeting1("evil/b")),
	}
	var n uint64
	rapid.Check(t, func(rt *rapid.T) {
		said := mutated(rt, seeds)
		conn, err := tls.Dial("tcp", w.tcp.Addr().String(), agentTLS)
		if err != nil {
			rt.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * patience))
		written := make(chan struct{})
		go func() {
			defer close(written)
			conn.Write(said) // it may be cut off in the midst
			conn.CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			rt.Error("the conversation has no end")
		}
		conn.Close()
		<-written
		next := good(t)
		n++
		if s := w.streamStatus("good/eth0"); s.Received != n || uint64(next) != n || len(s.Lost) > 0 {
			rt.Errorf("the other sensor has sent %d; its stream is %+v", n, s)
		}
		for _, s := range w.Streams() {
			if s.Ring.Packets > s.Received || s.Sensor != "good" && s.Sensor != "evil" {
				rt.Errorf("stream %+v", s)
			}
		}
	})
}

// Listeners and the administration are fed with what anybody may send. Nobody
// waits for ever, and nothing that was said comes back to be shown to a browser
// or a terminal.
func TestMutatedRequestsHurtNobody(t *testing.T) {
	w := newWorld(t, nil, plain("plain"), plain("secure", func(l *ListenerConfig) { l.TLS, l.ClientAuth = true, "none" }))
	good := bystander(w)
	seeds := [][]byte{
		[]byte("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
		[]byte("POST /api/v1/streams HTTP/1.1\r\nHost: <script>\r\nOrigin: http://evil\r\nContent-Length: 99999999999\r\n\r\n"),
		[]byte("GET /%1b[31m<script>?\x1b HTTP/1.0\r\nConnection: upgrade\r\n\r\n"),
		[]byte("GET /api/v1/listeners HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic \x1b\r\n\r\n"),
		[]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"),
	}
	rapid.Check(t, func(rt *rapid.T) {
		port := rapid.SampledFrom([]string{"admin", "plain", "secure"}).Draw(rt, "port")
		address := w.admin.Addr().String()
		if port != "admin" {
			address = w.address(port)
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			rt.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * patience))
		conn.Write(mutated(rt, seeds))
		conn.(*net.TCPConn).CloseWrite()
		if port != "plain" { // which goes on sending to who is half closed
			answer, err := io.ReadAll(io.LimitReader(conn, 1<<20))
			if os.IsTimeout(err) {
				rt.Error("the conversation has no end")
			}
			if bytes.Contains(answer, []byte("<script")) || bytes.ContainsRune(answer, 0x1b) {
				rt.Errorf("answered %q", answer)
			}
		}
		good(t)
	})
}
