package e2e

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/certs"
	"poip/internal/pcap"
	"poip/internal/transport"
	"poip/internal/wire"
)

// TestTsharkReadsOverTCP: three packets in, three exact times out, over IPv4
// and IPv6.
func TestTsharkReadsOverTCP(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"v4", "127.0.0.1:0", plainOldest}, listenerTOML{"v6", "[::1]:0", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		for range 3 {
			f.packet()
		}
		want := epochTime(0) + "\n" + epochTime(1) + "\n" + epochTime(2) + "\n"
		for _, listener := range []string{"v4", "v6"} {
			got, code := shell(t, patience, "tshark -i 'TCP@%s' -c 3 -T fields -e frame.time_epoch", r.address(listener))
			if got != want || code != 0 {
				t.Errorf("%s: tshark printed %q with code %d, want %q", listener, got, code, want)
			}
		}
	})
}

// TestOneTsharkSurvivesAnAgentsRestart: it reads on, on the same connection.
func TestOneTsharkSurvivesAnAgentsRestart(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		f.packet()
		tshark := exec.Command("tshark", "-n", "-l", "-i", "TCP@"+r.address("plain"), "-c", "3", "-T", "fields", "-e", "frame.time_epoch")
		out, err := tshark.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := tshark.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(patience, func() { tshark.Process.Kill() })
		defer kill.Stop()
		lines := bufio.NewReader(out)
		next := func(i int) {
			if line, err := lines.ReadString('\n'); line != epochTime(i)+"\n" {
				t.Errorf("tshark printed %q (%v), want the time of packet %d", line, err, i)
			}
		}
		next(0)
		f.Kill()
		f = w.startFeed(r, "branch-7", scheme)
		f.packet()
		f.packet()
		next(0)
		next(1)
		if err := tshark.Wait(); err != nil {
			t.Errorf("tshark: %v", err)
		}
	})
}

// TestHeaderComesBeforePackets: an analyst of a quiet stream gets the 24 bytes
// of the file header within a second.
func TestHeaderComesBeforePackets(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainLive}))
		w.startFeed(r, "branch-7", scheme)
		conn := dial(t, r.address("plain"))
		conn.SetReadDeadline(time.Now().Add(time.Second))
		header := make([]byte, pcap.FileHeaderLen)
		if _, err := io.ReadFull(conn, header); err != nil {
			t.Fatal(err)
		}
		const want = "d4c3b2a1020004000000000000000000ffff000001000000"
		if got := hex.EncodeToString(header); got != want {
			t.Errorf("header %s, want %s", got, want)
		}
	})
}

// TestHeaderIsKnownAfterRestart: a relay that has seen a stream once gives its
// header before the agent is back.
func TestHeaderIsKnownAfterRestart(t *testing.T) {
	w := newWorld(t, "branch-7")
	toml := w.relayTOML("", listenerTOML{"plain", "", plainLive})
	r := w.startRelay(toml)
	f := w.startFeed(r, "branch-7", "tls")
	f.Kill()
	r.stop()
	r = w.startRelay(toml)
	conn := dial(t, r.address("plain"))
	conn.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.ReadFull(conn, make([]byte, pcap.FileHeaderLen)); err != nil {
		t.Errorf("no header from a stream that was seen before the restart: %v", err)
	}
}

// TestPacketsAppearWithinASecond: each packet is a line of tcpdump at once.
func TestPacketsAppearWithinASecond(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		host, port := splitAddress(t, r.address("plain"))
		lines := lineReader(t, fmt.Sprintf("nc %s %s | tcpdump -l -n -r -", host, port))
		f.packet()
		lines.next(patience) // the tools have started
		for range 5 {
			f.packet()
			if line := lines.next(time.Second); !strings.Contains(line, "198.51.100.1.12345 > 192.0.2.1.12346") {
				t.Errorf("tcpdump printed %q", line)
			}
		}
	})
}

// TestPacketWithoutBytesIsCounted: a record of captured length 0 would stop
// Wireshark; it is counted, not sent, and its neighbors arrive.
func TestPacketWithoutBytesIsCounted(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		f.packet()
		f.write(pcap.AppendRecord(nil, 1, 0, 60, nil))
		f.packet()
		got, code := shell(t, patience, "tshark -i TCP@%s -c 2 -T fields -e frame.time_epoch", r.address("plain"))
		if want := epochTime(0) + "\n" + epochTime(1) + "\n"; got != want || code != 0 {
			t.Errorf("tshark printed %q with code %d, want %q", got, code, want)
		}
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Errorf("agent ended with code %d", code)
		}
		end := f.WaitMessage("stream ended")
		if end["empty"] != 1.0 || end["captured"] != 2.0 || end["acknowledged"] != 2.0 {
			t.Errorf("the agent's sums: %v", end)
		}
	})
}

// TestOversizedRecordHurtsOneStreamOnly: a record above 262144 bytes ends that
// capture with an error that names it; the relay and other streams go on.
func TestOversizedRecordHurtsOneStreamOnly(t *testing.T) {
	w := newWorld(t, "branch-7", "branch-8")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
	bad, good := w.startFeed(r, "branch-7", "tls"), w.startFeed(r, "branch-8", "tls")
	bad.Stdin.Write(pcap.AppendRecord(nil, 1, 0, 262145, make([]byte, 262145))) // it may be gone before it has all
	good.packet()
	if code := bad.Wait(); code == 0 {
		t.Error("the agent with the oversized record ended well")
	}
	if !strings.Contains(bad.Log(), "262145") {
		t.Error("the agent's error does not name the length")
	}
	if _, code := shell(t, patience, "tshark -i TCP@%s -c 1", r.address("plain")); code != 0 {
		t.Errorf("tshark ended with code %d", code)
	}
}

// TestToolsThatReadOverTLS: ncat, socat and openssl get byte for byte what was
// sent, and a clean end.
func TestToolsThatReadOverTLS(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"secure", "", "tls = true\n" + plainOldest + "end = \"close\"\n"}))
		f := w.startFeed(r, "branch-7", scheme)
		for range 100 {
			f.packet()
		}
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Fatalf("agent ended with code %d", code)
		}
		host, port := splitAddress(t, r.address("secure"))
		ca := w.path("relay", "ca.pem")
		for _, command := range []string{
			fmt.Sprintf("ncat --ssl --recv-only %s %s", host, port),
			fmt.Sprintf("ncat --ssl %s %s </dev/null", host, port),
			fmt.Sprintf("ncat --ssl --ssl-verify --ssl-trustfile %s --recv-only localhost %s", ca, port),
			fmt.Sprintf("socat -u OPENSSL:localhost:%s,cafile=%s -", port, ca),
			fmt.Sprintf("openssl s_client -quiet -connect %s:%s </dev/null 2>/dev/null", host, port),
			fmt.Sprintf("openssl s_client -tls1_2 -quiet -connect %s:%s </dev/null 2>/dev/null", host, port),
		} {
			got, code := shell(t, patience, "%s", command)
			if got != string(f.micro()) || code != 0 {
				t.Errorf("%s: code %d and %d bytes, want %d", command, code, len(got), len(f.micro()))
			}
		}
	})
}

// TestHalfClosedAnalystsKeepReading: ncat without --recv-only sends
// close_notify at once, nc -N sends FIN; both get what comes later, and a
// clean end when the relay stops.
func TestHalfClosedAnalystsKeepReading(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainLive}, listenerTOML{"secure", "", "tls = true\n" + plainLive}))
		f := w.startFeed(r, "branch-7", scheme)
		plainHost, plainPort := splitAddress(t, r.address("plain"))
		tlsHost, tlsPort := splitAddress(t, r.address("secure"))
		commands := []string{
			fmt.Sprintf("exec ncat --ssl %s %s </dev/null", tlsHost, tlsPort),
			fmt.Sprintf("exec nc.openbsd -N %s %s </dev/null", plainHost, plainPort),
			fmt.Sprintf("exec ncat %s %s </dev/null", plainHost, plainPort),
		}
		var outputs []*bytes.Buffer
		var running []*exec.Cmd
		for _, c := range commands {
			cmd, out := exec.Command("bash", "-c", c), new(bytes.Buffer)
			cmd.Stdout, cmd.Stderr = out, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			running, outputs = append(running, cmd), append(outputs, out)
		}
		eventually(t, "three analysts are connected", func() bool { return r.metric("poip_relay_connections") == 3 })
		time.Sleep(2 * time.Second) // what ncat and nc send first has long arrived
		for range 10 {
			f.packet()
		}
		eventually(t, "all were sent", func() bool { return r.metric("poip_relay_sent_packets_total") == 30 })
		r.stop()
		for i, cmd := range running {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", commands[i], err)
			}
			if !bytes.Equal(outputs[i].Bytes(), f.micro()) {
				t.Errorf("%s: %d bytes, want %d", commands[i], outputs[i].Len(), len(f.micro()))
			}
		}
	})
}

// TestJunkFromAnalystsIsDiscarded: a client that sends 300 kB while it receives
// still gets every byte when the relay closes.
func TestJunkFromAnalystsIsDiscarded(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		conn := dial(t, r.address("plain"))
		for range 2000 {
			f.packet()
		}
		if _, err := conn.Write(make([]byte, 300_000)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all were received", func() bool { return r.metric("poip_relay_received_packets_total") == 2000 })
		go r.stop()
		conn.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, f.micro()) {
			t.Errorf("%d bytes, want %d (%v)", len(got), len(f.micro()), err)
		}
		r.Wait()
	})
}

// TestStrangersAreRefused: without a certificate there is no stream, and the
// relay says who was refused and why.
func TestStrangersAreRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t, "branch-7")
	r := w.startRelay(w.relayTOML(""))
	got, _ := shell(t, patience, "openssl s_client -alpn poip/1 -quiet -connect %s </dev/null 2>/dev/null", r.address("tls"))
	if got != "" {
		t.Errorf("a client without certificate got %q", got)
	}
	r.WaitMessage("refused a connection")
	stranger := other.startAgent("branch-7", other.agentTOML("branch-7", r.intake("tls"), "name = \"x\"\nstdin = true\n"))
	stranger.Stdin.Write(pcap.AppendFileHeader(nil, pcap.LinkEthernet, 65535, true))
	stranger.WaitLog("that ca.pem is another one", func(l logLine) bool {
		return l["level"] != "DEBUG" && strings.Contains(fmt.Sprint(l["error"]), "ca.pem")
	})
	if n := r.metric("poip_relay_received_packets_total"); n != 0 || strings.Contains(r.get("/api/v1/streams"), "branch-7") {
		t.Error("a stranger's stream was created")
	}
}

// TestSensorCannotTakeAnothersName: the certificate decides, not the hello.
func TestSensorCannotTakeAnothersName(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7", "branch-8")
		r := w.startRelay(w.relayTOML(""))
		conn := helloAs(t, w, "branch-8", r.intake(scheme), "branch-7/eth0")
		if code := readRefusal(t, conn); code != "forbidden" {
			t.Errorf("refusal %s, want forbidden", code)
		}
		r.WaitLog("the name that was said", func(l logLine) bool { return l["level"] == "WARN" && strings.Contains(fmt.Sprint(l), "branch-7/eth0") })
	})
}

// helloAs opens a stream with the sensor's certificate and says hello for any
// name.
func helloAs(t *testing.T, w *world, sensor, relayURL, stream string) transport.Conn {
	t.Helper()
	endpoint, err := transport.ParseEndpoint(relayURL)
	if err != nil {
		t.Fatal(err)
	}
	dialer := w.dialer(sensor)
	t.Cleanup(func() { dialer.Close() })
	conn, err := dialer.Open(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Abort() })
	hello := wire.Hello{Version: wire.Version, LinkType: pcap.LinkEthernet, Snaplen: 65535, Stream: stream}
	if _, err := conn.Write(wire.AppendHello(nil, hello)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialer is a sensor's way to its relay.
func (w *world) dialer(sensor string) *transport.Dialer {
	w.t.Helper()
	keypair, err := certs.LoadKeypair(w.path(sensor, certs.SensorCert), w.path(sensor, certs.SensorKey))
	if err != nil {
		w.t.Fatal(err)
	}
	relays, err := certs.LoadAuthorities(w.path(sensor, certs.CAFile))
	if err != nil {
		w.t.Fatal(err)
	}
	return &transport.Dialer{TLS: certs.AgentTLS(keypair, relays, "localhost")}
}

// readRefusal reads the relay's answer, which has to be one.
func readRefusal(t *testing.T, conn transport.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	var buf [wire.FrameHeaderLen]byte
	header, err := wire.ReadHeader(conn, &buf)
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, header.Length)
	if _, err := io.ReadFull(conn, payload); err != nil {
		t.Fatal(err)
	}
	refusal, err := wire.ParseRefusal(payload)
	if header.Type != wire.TypeRefusal || err != nil {
		t.Fatalf("answer of type %d: %v", header.Type, err)
	}
	return refusal.Code.String()
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// A lines reads what a pipeline prints, as it prints it.
type lines struct {
	t  *testing.T
	ch chan string
}

func lineReader(t *testing.T, command string) *lines {
	t.Helper()
	cmd := exec.Command("bash", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &lines{t, make(chan string, 1000)}
	go func() {
		defer close(l.ch)
		for s := bufio.NewScanner(out); s.Scan(); {
			l.ch <- s.Text()
		}
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		for range l.ch {
		}
		cmd.Wait()
	})
	return l
}

func (l *lines) next(most time.Duration) string {
	l.t.Helper()
	select {
	case line, ok := <-l.ch:
		if !ok {
			l.t.Fatal("the pipeline ended")
		}
		return line
	case <-time.After(most):
		l.t.Fatalf("no line within %v", most)
		return ""
	}
}
