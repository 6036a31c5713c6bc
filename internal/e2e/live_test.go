package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// TestReplayedOntoVethArrivesWhole: tcpreplay sends a file into one end of a
// veth, an agent captures the other one; the analyst gets packets of the same
// number, order, length and bytes, at the times at which they passed.
func TestReplayedOntoVethArrivesWhole(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		if err := poiptest.IP("link add va type veth peer name vb", "link set va up", "link set vb up"); err != nil {
			t.Fatal(err)
		}
		for _, latency := range []string{"normal", "low"} {
			for _, scheme := range []string{"tls", "quic"} {
				t.Run(latency+"/"+scheme, func(t *testing.T) { replayOnto(t, latency, scheme) })
			}
		}
	})
}

func replayOnto(t *testing.T, latency, scheme string) {
	w := newWorld(t, "branch-7")
	r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", "format = \"pcap-ns\"\n" + plainOldest}))
	capture := fmt.Sprintf("name = \"vb\"\ninterface = \"vb\"\nlatency = %q\nfilter = \"not ip6 host fe80::1\"\n", latency)
	agent := w.startAgent("branch-7", w.agentTOML("branch-7", r.intake(scheme), capture))
	eventually(t, "the interface is captured", func() bool { return r.metric("poip_relay_stream_live") == 1 })

	file, want := replayable(t, w)
	conn := dial(t, r.address("plain"))
	begin := time.Now()
	if out, code := shell(t, patience, "tcpreplay --quiet -i va --mbps 50 %s", file); code != 0 {
		t.Fatalf("tcpreplay: %s", out)
	}
	eventually(t, "all have arrived", func() bool { return r.metric("poip_relay_received_packets_total") >= float64(len(want)) })
	end := time.Now()
	agent.stop()
	r.stop()
	packets, err := pcap.NewReader(conn)
	if err != nil {
		t.Fatal(err)
	}
	last := begin.Add(-time.Second) // clocks of the kernel and of Go differ a little
	for i, sent := range want {
		p, err := packets.Next()
		if err != nil {
			t.Fatalf("packet %d of %d: %v", i, len(want), err)
		}
		if !bytes.Equal(p.Data, sent) || int(p.Original) != len(sent) {
			t.Fatalf("packet %d is not the one that was sent: %d bytes of %d, want %d", i, len(p.Data), p.Original, len(sent))
		}
		at := time.Unix(int64(p.Sec), int64(p.Nsec))
		if at.Before(last) || at.After(end.Add(time.Second)) {
			t.Fatalf("packet %d has the time %v, after %v", i, at, last)
		}
		last = at
	}
	if p, err := packets.Next(); err != io.EOF {
		t.Errorf("after the last packet comes %v, %v", p, err)
	}
}

// replayable makes one file of those captures that a veth carries as they are:
// Ethernet, whole, 60 to 1514 bytes.
func replayable(t *testing.T, w *world) (file string, packets [][]byte) {
	t.Helper()
	out := pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, false)
	for _, path := range captureFiles(t) {
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := pcap.NewReader(in)
		for err == nil && len(packets) < 3000 {
			var p *pcap.Packet
			if p, err = reader.Next(); err != nil || reader.Interfaces()[p.Interface].LinkType != pcap.LinkEthernet {
				break
			}
			if n := len(p.Data); n < 60 || n > 1514 || n != int(p.Original) {
				continue
			}
			packets = append(packets, bytes.Clone(p.Data))
			out = pcap.AppendRecord(out, uint32(len(packets)), 0, p.Original, p.Data)
		}
		in.Close()
	}
	if len(packets) < 1000 {
		t.Fatalf("only %d packets to replay", len(packets))
	}
	return w.write("replay.pcap", string(out)), packets
}

// TestDemonstration: what `make run` prints works when it is pasted, with an
// interface to capture and without one.
func TestDemonstration(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		t.Run("made-up", func(t *testing.T) { demonstrate(t, "made-up DNS queries") })
		if err := poiptest.IP("link add va type veth peer name vb", "addr add 198.51.100.1/24 broadcast + dev va", "link set va up", "link set vb up"); err != nil {
			t.Fatal(err)
		}
		stop := chatter(t, "198.51.100.255:9")
		t.Run("interface", func(t *testing.T) { demonstrate(t, "the interface v") })
		stop()
	})
}

func demonstrate(t *testing.T, source string) {
	w := &world{t: t, dir: t.TempDir()}
	demo := w.start("poip-relay", "demo", "--log-level", "warn")
	var text string
	eventually(t, "the demonstration says what to paste", func() bool {
		out, _ := os.ReadFile(filepath.Join(w.dir, "stdout"))
		text = string(out)
		return strings.Contains(text, "Ctrl-C")
	})
	if !strings.Contains(text, source) {
		t.Errorf("it does not capture %s:\n%s", source, text)
	}
	pasted := 0
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch word, _, _ := strings.Cut(line, " "); word {
		case "tshark", "nc", "ncat":
			if line += " -c 3"; !poiptest.RealRoot() {
				// In a user namespace tcpdump cannot become the user that it wants to be.
				line = strings.Replace(line, "tcpdump -l -n", "tshark -l -n", 1)
			}
		case "curl":
			line += " -sSf"
		default:
			continue
		}
		pasted++
		if out, code := shell(t, patience, "set +o pipefail; %s", line); code != 0 || out == "" {
			t.Errorf("%s: code %d, %d bytes", line, code, len(out))
		}
	}
	if pasted != 5 {
		t.Errorf("%d lines to paste in:\n%s", pasted, text)
	}
	demo.stop()
	_, dir, _ := strings.Cut(text, "Everything is in ")
	dir, _, _ = strings.Cut(dir, " ")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the demonstration leaves %q behind (%v)", dir, err)
	}
}

// chatter sends a broadcast every 50 ms.
func chatter(t *testing.T, address string) (stop func()) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1) })
		return err
	}}
	conn, err := dialer.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
				conn.Write([]byte("chatter"))
			case <-done:
				tick.Stop()
				conn.Close()
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
