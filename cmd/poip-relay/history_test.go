package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"poip/internal/audit"
	"poip/internal/cli"
	"poip/internal/journal"
	"poip/internal/pcap"
	"poip/internal/wire"
)

// second is when the packet of that number was captured.
const second = 1_700_000_000

// keepHistory makes the history of a stream: an epoch of six packets, with a
// gap of four among them, and an end that nobody saw; and, if there is a second
// link type, another one of two packets.
func keepHistory(t *testing.T, data, stream string, other pcap.LinkType) string {
	t.Helper()
	dir := filepath.Join(data, "history", stream)
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(journal.Epoch{ID: wire.Epoch{1}, LinkType: pcap.LinkEthernet, Snaplen: 100, Interface: "eth0", Agent: "test"}, 0)
	keepBatch(j, 0, 3, 1)
	j.Gap(wire.Gap{First: 3, Count: 4, Cause: wire.CauseKernelDrop, Earliest: (second + 2) * 1e9, Latest: (second + 7) * 1e9}, 2)
	keepBatch(j, 7, 3, 3)
	j.Gap(wire.Gap{First: 10, Cause: wire.CauseAgentCrash}, 4)
	if other != 0 {
		j.Begin(journal.Epoch{ID: wire.Epoch{2}, LinkType: other, Snaplen: 100}, 0)
		keepBatch(j, 0, 2, 5)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func keepBatch(j *journal.Journal, first wire.PacketNumber, count uint32, arrival int64) {
	keepFalseBatch(j, first, count, arrival, second+uint32(first))
}

// keepFalseBatch keeps a batch whose packets are of another time than it says.
func keepFalseBatch(j *journal.Journal, first wire.PacketNumber, count uint32, arrival int64, sec uint32) {
	frame := make([]byte, wire.BatchPrefixLen)
	for i := range count {
		frame = pcap.AppendRecord(frame, sec+i, 123456789, 60, make([]byte, 60))
	}
	at := int64(second+first) * 1e9
	wire.SealBatch(frame, wire.BatchHeader{First: first, Count: count, Earliest: at, Latest: at + int64(count)*1e9})
	j.Append(frame[wire.FrameHeaderLen:wire.BatchPrefixLen], frame[wire.BatchPrefixLen:], arrival)
}

// relay runs the command.
func relay(args ...string) (stdout, stderr string, code int) {
	var out, err bytes.Buffer
	code = cli.Run(newRoot(), args, &out, &err)
	return out.String(), err.String(), code
}

func TestHistoryIsListed(t *testing.T) {
	data := t.TempDir()
	keepHistory(t, data, "s/c", 0)
	keepHistory(t, data, "s/d", pcap.LinkSLL2)
	out, _, code := relay("history", "list", "--data", data)
	for _, want := range []string{"s/c", "s/d", "2023-11-14T22:13:20Z", "4 kernel_drop", "1× unknown agent_crash"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("list has no %q: code %d\n%s", want, code, out)
		}
	}
	out, _, code = relay("history", "list", "s/c", "--data", data, "--json")
	var got historyList
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || len(got.Streams) != 1 {
		t.Fatalf("code %d, %v\n%s", code, err, out)
	}
	s := got.Streams[0]
	if s.Packets != 6 || s.Lost["kernel_drop"] != 4 || s.Unknown["agent_crash"] != 1 || len(s.Epochs) != 1 {
		t.Errorf("%+v", s)
	}
	e := s.Epochs[0]
	if e.First != 0 || e.Next != 10 || e.Packets != 6 || len(e.Gaps) != 2 || e.Gaps[0] != (historyGap{3, 4, "kernel_drop", (second + 2) * 1e9, (second + 7) * 1e9}) {
		t.Errorf("%+v", e)
	}
}

// times are those of the packets that tshark finds in a file, in seconds.
func times(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "frame.time_epoch").Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	return strings.ReplaceAll(string(out), ".123456789\n", " ")
}

func TestHistoryIsExported(t *testing.T) {
	data := t.TempDir()
	keepHistory(t, data, "s/c", 0)
	keepHistory(t, data, "s/d", pcap.LinkSLL2)
	file := filepath.Join(t.TempDir(), "all.pcap")
	_, said, code := relay("history", "export", "s/c", "--data", data, "-w", file)
	if code != 0 || !strings.Contains(said, "4 packets (kernel_drop), at number 3") || !strings.Contains(said, "unknown number of packets (agent_crash)") {
		t.Errorf("code %d, said %q", code, said)
	}
	if got := times(t, file); got != "1700000000 1700000001 1700000002 1700000007 1700000008 1700000009 " {
		t.Errorf("exported %s", got)
	}
	if _, said, code = relay("history", "export", "s/c", "--data", data, "-w", file); code == 0 {
		t.Errorf("a file is overwritten: %s", said)
	}
	part := filepath.Join(t.TempDir(), "part.pcap")
	_, said, code = relay("history", "export", "s/c", "--data", data, "--from", "2023-11-14T22:13:28Z", "--to", "2023-11-14T22:13:29.123456789Z", "-w", part)
	if got := times(t, part); code != 0 || strings.Contains(said, "kernel_drop") || got != "1700000008 " {
		t.Errorf("code %d, exported %q, said %q", code, got, said)
	}
	if _, said, code = relay("history", "export", "s/d", "--data", data); code == 0 || !strings.Contains(said, "--link-type") {
		t.Errorf("code %d, said %q", code, said)
	}
	for _, link := range []string{"linux_sll2", "276"} {
		out, said, code := relay("history", "export", "s/d", "--data", data, "--link-type", link)
		if want := pcap.FileHeaderLen + 2*(pcap.RecordHeaderLen+60); code != 0 || len(out) != want {
			t.Errorf("link type %s: code %d, %d bytes, want %d; %s", link, code, len(out), want, said)
		}
	}
	for _, args := range [][]string{{"s/none"}, {"../../etc"}, {"s/c", "--from", "yesterday"}, {"s/d", "--link-type", "7"}} {
		if out, said, code := relay(append([]string{"history", "export", "--data", data}, args...)...); code == 0 {
			t.Errorf("%v: exported %d bytes, said %q", args, len(out), said)
		}
	}
	if _, _, code := relay("history", "export", "s/c", "--data", data+"-typo"); code == 0 {
		t.Error("exported what is not there")
	}
	if _, err := os.Stat(data + "-typo"); err == nil {
		t.Error("a folder was made for a wrong name")
	}
}

// TestExportsAreAudited: whoever reads a stream by the command leaves the lines
// that an analyst leaves. It fails without begin and end in export.write.
func TestExportsAreAudited(t *testing.T) {
	data := t.TempDir()
	keepHistory(t, data, "s/c", 0)
	for range 2 {
		relay("history", "export", "s/c", "--data", data, "--from", "2023-11-14T22:13:28Z", "-w", filepath.Join(data, "part.pcap")) // the second finds it there
	}
	lines := auditLines(t, filepath.Join(data, audit.File))
	if len(lines) != 2 {
		t.Fatalf("%d lines: %+v", len(lines), lines)
	}
	begun, ended := lines[0], lines[1]
	for _, e := range lines {
		if len(e.Streams) != 1 || e.Streams[0] != "s/c" || !strings.HasPrefix(e.Actor, "command of user ") || e.From == nil {
			t.Errorf("line %+v", e)
		}
	}
	if begun.Event != audit.ReadBegun || ended.Event != audit.ReadEnded || ended.To == nil || *ended.Packets != 2 || *ended.Bytes != 2*(pcap.RecordHeaderLen+60) {
		t.Errorf("lines %+v, %+v", begun, ended)
	}
}

// TestAnExportReadsWhatItNeeds: segments that say that they are of other times
// are not read, which shows where that is not true. What was lost in them is told
// all the same.
func TestAnExportReadsWhatItNeeds(t *testing.T) {
	data := t.TempDir()
	dir := filepath.Join(data, "history", "s", "c")
	j, err := journal.Open(dir, journal.Options{Segment: 3000}) // one for each batch
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(journal.Epoch{ID: wire.Epoch{1}, LinkType: pcap.LinkEthernet, Snaplen: 100}, 0)
	for n := wire.PacketNumber(0); n < 40; n += 10 {
		j.Gap(wire.Gap{First: n, Count: 2, Cause: wire.CauseKernelDrop}, int64(n))
		if n == 0 || n == 30 {
			keepFalseBatch(j, n+2, 8, int64(n), second+18)
		} else {
			keepBatch(j, n+2, 8, int64(n))
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	out, said, code := relay("history", "export", "s/c", "--data", data, "--from", "2023-11-14T22:13:35Z", "--to", "2023-11-14T22:13:50Z")
	if want := pcap.FileHeaderLen + 13*(pcap.RecordHeaderLen+60); code != 0 || len(out) != want {
		t.Errorf("code %d, %d bytes, want %d: %s", code, len(out), want, said)
	}
	if strings.Count(said, "kernel_drop") != 4 { // these have no time
		t.Errorf("said %s", said)
	}
	out, said, code = relay("history", "export", "s/c", "--data", data)
	if want := pcap.FileHeaderLen + 32*(pcap.RecordHeaderLen+60); code != 0 || len(out) != want {
		t.Errorf("code %d, %d bytes, want %d: %s", code, len(out), want, said)
	}
}

// trimmer is where an export goes; it deletes the rest of the history when it
// has got something.
type trimmer struct {
	files []string
	got   int
}

func (w *trimmer) Write(p []byte) (int, error) {
	w.got += len(p)
	for _, f := range w.files {
		os.Remove(f)
	}
	return len(p), nil
}

// TestAnExportThatIsOvertakenSaysSo: packets that are deleted before the export
// has come to them are missed, not passed over.
func TestAnExportThatIsOvertakenSaysSo(t *testing.T) {
	data := t.TempDir()
	dir := filepath.Join(data, "history", "s", "c")
	j, err := journal.Open(dir, journal.Options{Segment: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	j.Begin(journal.Epoch{ID: wire.Epoch{1}, LinkType: pcap.LinkEthernet, Snaplen: 100}, 0)
	for n := wire.PacketNumber(0); n < 40_000; n += 1000 { // 3 MB
		keepBatch(j, n, 1000, int64(n))
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	out := &trimmer{}
	for _, f := range files {
		if name := filepath.Base(f); name != "lock" && !strings.HasPrefix(name, "0000000000000001-") && !strings.HasPrefix(name, "0000000000000003-") {
			out.files = append(out.files, f)
		}
	}
	var said bytes.Buffer
	code := cli.Run(newRoot(), []string{"history", "export", "s/c", "--data", data}, out, &said)
	missing := 40_000 - (out.got-pcap.FileHeaderLen)/(pcap.RecordHeaderLen+60)
	if want := fmt.Sprintf("%d packets", missing); code == 0 || missing == 0 || !strings.Contains(said.String(), want) {
		t.Errorf("code %d, %d packets are missing: %s", code, missing, said.String())
	}
}

func TestHistoryIsVerified(t *testing.T) {
	data := t.TempDir()
	keepHistory(t, data, "s/c", 0)
	dir := keepHistory(t, data, "s/d", 0)
	if out, said, code := relay("history", "verify", "--data", data); code != 0 || !strings.Contains(out, "s/c: ok") {
		t.Errorf("code %d: %s%s", code, out, said)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-70] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, said, code := relay("history", "verify", "--data", data)
	segment := strings.TrimSuffix(filepath.Base(files[0]), ".pcap")
	if code == 0 || !strings.Contains(out, "s/d: "+segment) || !strings.Contains(out, "offset") || !strings.Contains(said, "s/d") {
		t.Errorf("code %d: %s%s", code, out, said)
	}
	if _, said, code = relay("history", "verify", "s/c", "--data", data); code != 0 {
		t.Errorf("code %d: %s", code, said)
	}
}

// TestAHistoryThatIsNotSeenIsNotSaidToBeWell: where a command cannot look it
// says so, and goes on where it can.
func TestAHistoryThatIsNotSeenIsNotSaidToBeWell(t *testing.T) {
	data := t.TempDir()
	keepHistory(t, data, "s/c", 0)
	blocked := t.TempDir()
	if err := os.WriteFile(filepath.Join(blocked, "history"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"list", "verify"} {
		for _, dir := range []string{filepath.Join(data, "none"), t.TempDir(), blocked} {
			if out, said, code := relay("history", command, "--data", dir); code == 0 || said == "" {
				t.Errorf("%s of %s: code %d: %s%s", command, dir, code, out, said)
			}
		}
		out, said, code := relay("history", command, "s/none", "s/c", "--data", data)
		if code == 0 || !strings.Contains(said, "s/none") || !strings.Contains(out, "s/c") {
			t.Errorf("%s: code %d: %s%s", command, code, out, said)
		}
	}
}
