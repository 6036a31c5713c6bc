package e2e

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"poip/internal/pcap"
)

// TestEveryCaptureArrivesAsTsharkReadsIt sends every file of POIP_CAPTURES
// through an agent and a relay, and compares what an analyst gets with what
// tshark reads from the original: times, lengths and bytes of every packet.
func TestEveryCaptureArrivesAsTsharkReadsIt(t *testing.T) {
	files := captureFiles(t)
	w := newWorld(t, "lab")
	r := w.startRelay(strings.Replace(
		w.relayTOML("", listenerTOML{"each", "127.0.0.1:20000-20999", "each = true\nformat = \"pcap-ns\"\nsnaplen = 262144\n" + wholeFile}),
		"[relay.intake]\n", "[relay.intake]\nmax_streams_per_sensor = 1000\nmax_streams = 1000\n", 1))
	var captures []string
	for i, file := range files {
		captures = append(captures, fmt.Sprintf("name = \"f%d\"\nfile = %q\n", i, file))
	}
	agent := w.startAgent("lab", w.agentTOML("lab", r.intake("tls"), captures...))
	agent.wait(2 * time.Minute)

	streams := r.streamsByFile()
	work := make(chan int)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for i := range work {
				compareCapture(t, r, files[i], streams[fmt.Sprintf("f%d", i)])
			}
		})
	}
	for i := range files {
		work <- i
	}
	close(work)
	workers.Wait()
}

func captureFiles(t *testing.T) (files []string) {
	t.Helper()
	root := os.Getenv("POIP_CAPTURES")
	if root == "" {
		root = "../../../shared/captures"
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err == nil && (ext == ".pcap" || ext == ".pcapng") {
			path, err = filepath.Abs(path)
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no captures in %s (%v): set POIP_CAPTURES to a folder of pcap and pcapng files", root, err)
	}
	return files
}

// streamsByFile returns the names of streams by the capture that they came
// from, one for each interface of a file.
func (r *relay) streamsByFile() map[string][]string {
	r.t.Helper()
	var answer struct{ Streams []struct{ Stream string } }
	if err := json.Unmarshal([]byte(r.get("/api/v1/streams")), &answer); err != nil {
		r.t.Fatal(err)
	}
	byFile := map[string][]string{}
	for _, s := range answer.Streams {
		file, _, _ := strings.Cut(s.Stream, ".")
		byFile[file] = append(byFile[file], s.Stream)
	}
	return byFile
}

// compareCapture compares all streams of a file with what tshark reads there.
func compareCapture(t *testing.T, r *relay, file string, streams []string) {
	want := tsharkPackets(t, file)
	got := map[string][]string{}
	for _, stream := range streams {
		_, number, several := strings.Cut(stream, ".")
		if !several {
			number = "0"
		}
		address := r.portOf("each", "lab/"+stream)
		if lines := recordLines(t, readAll(t, address)); len(lines) > 0 {
			got[number] = lines
		}
	}
	for number, lines := range want {
		if !slices.Equal(got[number], lines) {
			t.Errorf("%s, interface %s: %d packets arrived, tshark reads %d; first difference: %s",
				filepath.Base(file), number, len(got[number]), len(lines), firstDifference(got[number], lines))
		}
		delete(got, number)
	}
	for number, lines := range got {
		t.Errorf("%s, interface %s: %d packets arrived that tshark does not read", filepath.Base(file), number, len(lines))
	}
}

// tsharkPackets is what tshark reads, by interface: a line for each packet
// that has bytes.
func tsharkPackets(t *testing.T, file string) map[string][]string {
	fields := []string{"-T", "fields", "-o", "frame.generate_md5_hash:TRUE", "-e", "frame.interface_id",
		"-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.md5_hash"}
	out, _ := exec.Command("tshark", append([]string{"-n", "-r", file, "--disable-protocol", "ip"}, fields...)...).Output() // what it reads before an error counts
	packets := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		number, rest, _ := strings.Cut(line, "\t")
		if cells := strings.Split(rest, "\t"); len(cells) == 4 && cells[2] != "0" {
			if number == "" {
				number = "0"
			}
			packets[number] = append(packets[number], rest)
		}
	}
	return packets
}

// recordLines prints the packets of a nanosecond pcap as tsharkPackets does.
func recordLines(t *testing.T, file []byte) (lines []string) {
	records := file[pcap.FileHeaderLen:]
	if _, err := pcap.CountRecords(records); err != nil {
		t.Error(err)
		return nil
	}
	for len(records) > 0 {
		sec, nsec, captured, original := pcap.Record(records)
		sum := md5.Sum(records[pcap.RecordHeaderLen:][:captured])
		lines = append(lines, fmt.Sprintf("%d.%09d\t%d\t%d\t%s", sec, nsec, original, captured, hex.EncodeToString(sum[:])))
		records = records[pcap.RecordHeaderLen+captured:]
	}
	return lines
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("packet %d %q is missing", i, want[i])
		case i >= len(want):
			return fmt.Sprintf("packet %d %q is too many", i, got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("packet %d is %q, want %q", i, got[i], want[i])
		}
	}
	return "none"
}
