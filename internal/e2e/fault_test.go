package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest"
)

// TestAgentKilledAgainAndAgain: the analyst that stays connected gets whole
// records, in order, none twice; each death is on the record.
func TestAgentKilledAgainAndAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		r := w.startRelay(w.relayTOML("", listenerTOML{"plain", "", plainOldest}))
		f := w.startFeed(r, "branch-7", scheme)
		reader := startReader(t, r.address("plain"))
		const lives, each = 4, 200
		for life := range lives {
			for range each {
				f.packet()
			}
			if life == lives-1 {
				break
			}
			f.write(numbered(f.n)[:30]) // it dies in the middle of a record
			f.Kill()
			n := f.n
			f = w.startFeed(r, "branch-7", scheme)
			f.n = n
		}
		f.Stdin.Close()
		if code := f.Wait(); code != 0 {
			t.Fatalf("the last agent ended with code %d", code)
		}
		received := int(r.metric("poip_relay_received_packets_total"))
		got := reader.until(func(n int) bool { return n == received })
		inOrder(t, got)
		if last := got[len(got)-1]; last != lives*each-1 {
			t.Errorf("the last packet is %d, want %d", last, lives*each-1)
		}
		if n := r.metric("poip_relay_lost_unknown_total", `cause="agent_crash"`); n != lives-1 {
			t.Errorf("%v deaths are on the record, want %d", n, lives-1)
		}
	})
}

// TestRelayKilledAndRestarted: what the agent still holds is sent again; what
// it no longer holds, because the dead relay had acknowledged it, is counted.
func TestRelayKilledAndRestarted(t *testing.T) {
	overBoth(t, func(t *testing.T, scheme string) {
		w := newWorld(t, "branch-7")
		toml := w.relayTOML("", listenerTOML{"plain", "", plainOldest})
		r := w.startRelay(toml)
		toml = strings.NewReplacer(
			`tcp = "127.0.0.1:0"`, fmt.Sprintf("tcp = %q", r.address("tls")),
			`quic = "127.0.0.1:0"`, fmt.Sprintf("quic = %q", r.address("quic"))).Replace(toml)
		f := w.startFeed(r, "branch-7", scheme)
		const all = 600
		for f.n < all {
			f.packet()
			switch f.n {
			case 200:
				eventually(t, "200 are acknowledged", func() bool { return r.metric("poip_relay_received_packets_total") == 200 })
				r.Kill()
			case 400:
				r = w.startRelay(toml)
			}
		}
		f.Stdin.Close()
		if code := f.WaitFor(2 * patience); code != 0 {
			t.Fatalf("agent ended with code %d", code)
		}
		received, lost := r.metric("poip_relay_received_packets_total"), r.metric("poip_relay_lost_packets_total", `cause="relay_restart"`)
		if received+lost != all || received < all-200 {
			t.Errorf("the new relay received %v and counts %v as lost with the old one, want %d in all", received, lost, all)
		}
		got := startReader(t, r.address("plain")).until(func(n int) bool { return n == int(received) })
		inOrder(t, got)
	})
}

// TestLinkCutForHalfAMinute: both sides notice, and after it everything is
// there, once.
func TestLinkCutForHalfAMinute(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		link := newBranch(t)
		w := newWorld(t, "over-tls", "over-quic")
		r := w.startRelay(link.relayTOML(w))
		feeds := map[string]*feed{}
		readers := map[string]*reader{}
		for _, scheme := range []string{"tls", "quic"} {
			sensor := "over-" + scheme
			link.Do(func() { feeds[scheme] = w.startFeedAt(sensor, fmt.Sprintf("%s://%s:57011", scheme, relaySide)) })
			eventually(t, "the relay knows the stream", func() bool { return r.metric("poip_relay_stream_live", sensor) == 1 })
			readers[scheme] = startReader(t, r.portOf("each", sensor+"/feed"))
		}
		everySecond := func(seconds int) {
			for range seconds * 10 {
				for _, f := range feeds {
					f.packet()
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		everySecond(2)
		link.Cut()
		everySecond(30)
		for scheme, f := range feeds {
			if r.metric("poip_relay_stream_live", "over-"+scheme) != 0 {
				t.Errorf("%s: the relay takes a stream for alive after 30 s of silence", scheme)
			}
			f.WaitMessage("no uplink")
		}
		link.Mend()
		everySecond(2)
		for scheme, f := range feeds {
			inOrder(t, readers[scheme].until(func(n int) bool { return n == f.n }))
			if lost := r.metric("poip_relay_lost_packets_total", "over-"+scheme); lost != 0 {
				t.Errorf("%s: %v packets lost", scheme, lost)
			}
			f.Stdin.Close()
			if code := f.Wait(); code != 0 {
				t.Errorf("%s: agent ended with code %d", scheme, code)
			}
		}
	})
}

// TestNoSnowball: an agent that captures the interface of its own uplink sees
// everything there but that.
func TestNoSnowball(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		link := newBranch(t)
		for _, scheme := range []string{"tls", "quic"} {
			t.Run(scheme, func(t *testing.T) { captureOwnUplink(t, link, scheme) })
		}
	})
}

// TestNoSnowballBehindNAT: the sensor itself rewrites the relay's address, so
// that the packets on the interface bear another one than was dialed.
func TestNoSnowballBehindNAT(t *testing.T) {
	poiptest.RunInNetns(t, func() {
		link := newBranch(t)
		link.Do(func() {
			link.Nft("add table ip nat", "add chain ip nat out { type nat hook output priority -100; }",
				"add rule ip nat out ip daddr 203.0.113.1 dnat to "+relaySide)
			link.Must(poiptest.IP("route add 203.0.113.1 via " + relaySide))
		})
		w := newWorld(t, "branch-7")
		r := w.startRelay(link.relayTOML(w))
		toml := w.agentTOML("branch-7", "tls://203.0.113.1:57011", "name = \"uplink\"\ninterface = \"wan1\"\nfilter = \"tcp\"\n")
		link.Do(func() { w.startAgent("branch-7", toml) })
		eventually(t, "the uplink is captured", func() bool { return r.metric("poip_relay_stream_live") == 1 })
		first := r.metric("poip_relay_received_packets_total") // until the connection was open
		time.Sleep(6 * time.Second)                            // a sign of life of each side at least
		if n := r.metric("poip_relay_received_packets_total"); n > first+20 {
			t.Errorf("the agent captured %v packets on a link with nothing else on it", n)
		}
	})
}

func captureOwnUplink(t *testing.T, link *branch, scheme string) {
	w := newWorld(t, "branch-7")
	r := w.startRelay(link.relayTOML(w))
	toml := w.agentTOML("branch-7", fmt.Sprintf("%s://%s:57011", scheme, relaySide),
		"name = \"uplink\"\ninterface = \"wan1\"\nfilter = \"ip\"\n", "name = \"feed\"\nstdin = true\n")
	var agent *process
	link.Do(func() { agent = w.startAgent("branch-7", toml) })
	captured := func() float64 { return r.metric("poip_relay_received_packets_total", `stream="uplink"`) }
	eventually(t, "the uplink is captured", func() bool { return r.metric("poip_relay_stream_live", `stream="uplink"`) == 1 })

	const all = 20000
	agent.Stdin.Write(pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, true))
	for n := range all {
		agent.Stdin.Write(numbered(n))
	}
	eventually(t, "the feed has crossed the uplink", func() bool { return r.metric("poip_relay_received_packets_total", `stream="feed"`) == all })
	if n := captured(); n != 0 {
		t.Errorf("the agent captured %v packets of its own uplink", n)
	}
	link.Do(func() {
		if out, err := exec.Command("bash", "-c", "echo x > /dev/udp/"+relaySide+"/9").CombinedOutput(); err != nil {
			t.Errorf("send a packet that is not the uplink's: %v %s", err, out)
		}
	})
	eventually(t, "another packet on the same interface is captured", func() bool { return captured() > 0 })
	agent.stop()
	r.stop()
}

// TestStoppedAnalystHurtsNobody: one of ten readers is stopped; the nine others
// get everything, without delay; the relay's memory stays bounded; what the one
// has missed is counted, and its stream parses when it goes on.
func TestStoppedAnalystHurtsNobody(t *testing.T) {
	w := newWorld(t, "branch-7")
	r := w.startRelay(w.relayTOML("[relay.stream]\nmemory = \"16MiB\"\n", listenerTOML{"plain", "", plainOldest}))
	f := w.startFeed(r, "branch-7", "tls")
	host, port := splitAddress(t, r.address("plain"))
	var readers []*exec.Cmd
	var files []string
	for i := range 10 {
		file := w.path(fmt.Sprintf("analyst-%d.pcap", i))
		cmd := exec.Command("bash", "-c", fmt.Sprintf("exec nc %s %s > %s", host, port, file))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		readers, files = append(readers, cmd), append(files, file)
	}
	eventually(t, "ten analysts are connected", func() bool { return r.metric("poip_relay_connections") == 10 })
	readers[0].Process.Signal(syscall.SIGSTOP)

	const all, size = 60_000, 1400
	for n := range all {
		f.write(large(n, size))
		if n%500 == 499 {
			time.Sleep(25 * time.Millisecond) // 28 MB/s to each of nine
		}
	}
	const whole = pcap.FileHeaderLen + all*(pcap.RecordHeaderLen+size)
	handed := time.Now()
	for _, file := range files[1:] {
		eventually(t, "nine analysts have everything", func() bool { return fileSize(file) == whole })
	}
	if late := time.Since(handed); late > 2*time.Second {
		t.Errorf("the nine had everything %v after it was handed over", late)
	}
	if peak := peakMemory(t, r.Cmd.Process.Pid); peak > 16<<20+64<<20 {
		t.Errorf("the relay's memory reached %d MiB with a ring of 16 MiB", peak>>20)
	}
	readers[0].Process.Signal(syscall.SIGCONT)
	var counted bool
	eventually(t, "the tenth has caught up", func() bool {
		counted = r.metric("poip_relay_skipped_packets_total") > 0
		return r.metric("poip_relay_pending_packets") == 0
	})
	sent, skipped := r.metric("poip_relay_sent_packets_total"), r.metric("poip_relay_skipped_packets_total")
	if !counted || sent+skipped != 10*all {
		t.Errorf("sent %v + skipped %v, want %d in all and some skipped", sent, skipped, 10*all)
	}
	r.stop()
	readers[0].Wait()
	file, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := pcap.CountRecords(file[pcap.FileHeaderLen:])
	if err != nil || float64(n)+skipped != all {
		t.Errorf("the tenth has %d whole records, and %v were skipped, want %d in all (%v)", n, skipped, all, err)
	}
}

// large is a record of a frame of that size that holds n.
func large(n, size int) []byte {
	frame := make([]byte, size)
	copy(frame, numbered(n)[pcap.RecordHeaderLen:])
	at := feedEpoch.Add(time.Duration(n) * time.Microsecond)
	return pcap.AppendRecord(nil, uint32(at.Unix()), uint32(at.Nanosecond()), uint32(size), frame)
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return info.Size()
}

// peakMemory is the most memory that a process has had, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// A reader is an analyst that collects the numbers of the packets it gets.
type reader struct {
	t    *testing.T
	news chan uint64
	got  []uint64
}

func startReader(t *testing.T, address string) *reader {
	t.Helper()
	conn := dial(t, address)
	r := &reader{t: t, news: make(chan uint64, 1<<16)}
	go func() {
		defer close(r.news)
		packets, err := pcap.NewReader(conn)
		if err != nil {
			return
		}
		for {
			p, err := packets.Next()
			if err != nil {
				return // the test closes the connection, or misses packets
			}
			r.news <- binary.BigEndian.Uint64(p.Data[len(p.Data)-8:])
		}
	}()
	return r
}

// until collects until the number of packets suits.
func (r *reader) until(suits func(n int) bool) []uint64 {
	r.t.Helper()
	deadline := time.After(patience)
	for !suits(len(r.got)) {
		select {
		case n, ok := <-r.news:
			if !ok {
				r.t.Fatalf("the analyst's stream ended after %d packets", len(r.got))
			}
			r.got = append(r.got, n)
		case <-deadline:
			r.t.Fatalf("the analyst has %d packets, which is not what the test waits for", len(r.got))
		}
	}
	return r.got
}

// inOrder checks that numbers rise, none twice.
func inOrder(t *testing.T, numbers []uint64) {
	t.Helper()
	for i := 1; i < len(numbers); i++ {
		if numbers[i] <= numbers[i-1] {
			t.Fatalf("packet %d came after packet %d", numbers[i], numbers[i-1])
		}
	}
}
