package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// tcpdump is the real one, capturing beside us. Only root of the machine can
// run it: it wants to become another user before it captures.
type tcpdump struct {
	cmd  *exec.Cmd
	file string
}

func startTcpdump(t *testing.T, args ...string) *tcpdump {
	t.Helper()
	d := &tcpdump{file: filepath.Join(t.TempDir(), "tcpdump.pcap")}
	args = append([]string{"-U", "--immediate-mode", "--nano", "-B", "65536", "-Z", "root", "-w", d.file}, args...)
	d.cmd = exec.Command("tcpdump", args...)
	stderr, err := d.cmd.StderrPipe()
	must(t, err)
	must(t, d.cmd.Start())
	buf := make([]byte, 1000)
	var said []byte
	for !bytes.Contains(said, []byte("listening on")) {
		n, err := stderr.Read(buf)
		if said = append(said, buf[:n]...); err != nil {
			t.Fatalf("tcpdump: %s", said)
		}
	}
	go io.Copy(io.Discard, stderr)
	return d
}

// stop returns what tcpdump wrote, once it has written n packets.
func (d *tcpdump) stop(t *testing.T, n int) (packets []packet) {
	t.Helper()
	poiptest.WaitUntil(t, "tcpdump's packets", func() bool { return len(readPcap(t, d.file)) >= n })
	must(t, d.cmd.Process.Signal(unix.SIGINT))
	if err := d.cmd.Wait(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Logf("tcpdump: %v", err)
	}
	return readPcap(t, d.file)
}

// readPcap reads the whole records of a little-endian nanosecond file.
func readPcap(t *testing.T, file string) (packets []packet) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	for at := pcap.FileHeaderLen; at+pcap.RecordHeaderLen <= len(b); {
		sec, nsec, captured, original := pcap.Record(b[at:])
		at += pcap.RecordHeaderLen
		if at+int(captured) > len(b) {
			break
		}
		packets = append(packets, packet{at: time.Unix(int64(sec), int64(nsec)), original: int(original), data: b[at : at+int(captured)]})
		at += int(captured)
	}
	return packets
}

// A comparison is a capture of ours and the tcpdump that has to see the same.
type comparison struct {
	name    string
	capture Interface
	args    []string
	sees    func(name string, frame []byte) []packet // of a frame that is sent
}

func comparisons(t *testing.T, sender, receiver string) []comparison {
	t.Helper()
	whole := func(_ string, f []byte) []packet { return []packet{{original: len(f), data: f}} }
	return []comparison{
		{"received", Interface{Name: receiver}, []string{"-i", receiver}, whole},
		{"sent", Interface{Name: sender}, []string{"-i", sender}, whole},
		{"in", Interface{Name: receiver, Direction: DirectionIn}, []string{"-i", receiver, "-Q", "in"}, whole},
		{"cut", Interface{Name: receiver, Snaplen: 70}, []string{"-i", receiver, "-s", "70"}, func(_ string, f []byte) []packet {
			return []packet{{original: len(f), data: f[:min(len(f), 70)]}}
		}},
		{"filtered", Interface{Name: receiver, Filter: "vlan and ip"}, []string{"-i", receiver, "vlan and ip"}, func(name string, f []byte) []packet {
			if hasTag(f) && f[16] == 8 && f[17] == 0 {
				return whole(name, f)
			}
			return nil
		}},
		{"any", Interface{Name: AnyInterface, Filter: "ip and udp port 9"}, []string{"-i", "any", "ip and udp port 9"}, func(_ string, f []byte) []packet {
			if f[12] != 8 || f[13] != 0 || binary.BigEndian.Uint16(f[20:])&0x1fff != 0 {
				return nil
			}
			return []packet{cooked(t, sender, unix.PACKET_OUTGOING, f), cooked(t, receiver, unix.PACKET_OTHERHOST, f)}
		}},
	}
}

func hasTag(f []byte) bool { return f[12] == 0x81 || f[12] == 0x88 && f[13] == 0xa8 }

// cooked is an IPv4 frame as it appears on all interfaces at once.
func cooked(t *testing.T, ifname string, kind byte, frame []byte) packet {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	must(t, err)
	b := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, uint32(ifi.Index))
	b = append(b, 0, 1, kind, 6)
	b = append(append(b, frame[6:12]...), 0, 0)
	b = append(b, frame[14:]...)
	return packet{original: len(b), data: b}
}

// Same packets, same bytes, same lengths, in the same order; and where the real
// tcpdump runs beside us, the same as it sees, with the same times.
func TestInterfaceSeesWhatTcpdumpSees(t *testing.T) {
	everyLatency(t, func(t *testing.T, latency Latency) {
		pair := "v" + string(latency[:1])
		poiptest.Veth(t, pair+"A", pair+"B", 65535)
		for _, c := range comparisons(t, pair+"A", pair+"B") {
			t.Run(c.name, func(t *testing.T) {
				compare(t, c, latency, newInjector(t, pair+"A"))
			})
		}
	})
}

func compare(t *testing.T, c comparison, latency Latency, from *injector) {
	var beside *tcpdump
	if poiptest.RealRoot() {
		beside = startTcpdump(t, c.args...)
	}
	c.capture.Latency = latency
	ours := startCapture(t, &c.capture)
	var want []packet
	for name, f := range sampleFrames() {
		if hasTag(f) && c.name == "any" {
			continue // libpcap leaves tags out there; we do not
		}
		from.send(f)
		want = append(want, c.sees(name, f)...)
	}
	ours.await(t, len(want))
	time.Sleep(3 * blockTimeout) // for what must not come
	got := ours.stop(t)
	expectPackets(t, got, want)
	if beside == nil {
		return
	}
	theirs := beside.stop(t, len(want))
	expectPackets(t, got, theirs)
	for i := range min(len(got), len(theirs)) {
		if !got[i].at.Equal(theirs[i].at) {
			t.Errorf("packet %d came at %v, says tcpdump: %v", i, got[i].at, theirs[i].at)
		}
	}
}

func expectPackets(t *testing.T, got, want []packet) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !bytes.Equal(got[i].data, want[i].data) || got[i].original != want[i].original {
			t.Errorf("packet %d differs: got %s of %d, want %s of %d", i,
				outline(got[i].data), got[i].original, outline(want[i].data), want[i].original)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d packets, want %d", len(got), len(want))
	}
}
