package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"poip/internal/pcap"
	"poip/internal/poiptest/oracle"
)

// TestEveryCaptureArrivesAsTsharkReadsIt sends every file of POIP_CAPTURES
// through an agent and a relay, and compares what an analyst gets with what
// tshark reads from the original: times, lengths and bytes of every packet of
// every interface, link types, in order. Where tshark is not the rule, oracle.Captures
// says so.
func TestEveryCaptureArrivesAsTsharkReadsIt(t *testing.T) {
	captures := oracle.Captures(t)
	t.Run("tls", func(t *testing.T) { capturesArrive(t, "tls", captures) })
	var some []oracle.Capture // the rest would say nothing more of QUIC
	for i := 0; i < len(captures); i += 8 {
		some = append(some, captures[i])
	}
	t.Run("quic", func(t *testing.T) { capturesArrive(t, "quic", some) })
}

func capturesArrive(t *testing.T, scheme string, captures []oracle.Capture) {
	w := newWorld(t, "lab")
	r := w.startRelay(strings.Replace(
		w.relayTOML("", listenerTOML{"each", "127.0.0.1:20000-20999", "each = true\nformat = \"pcap-ns\"\nsnaplen = 262144\n" + wholeFile}),
		"[relay.intake]\n", "[relay.intake]\nmax_streams_per_sensor = 1000\nmax_streams = 1000\n", 1))
	var tables []string
	for i, c := range captures {
		tables = append(tables, fmt.Sprintf("name = \"f%d\"\nfile = %q\n", i, c.Path))
	}
	agent := w.startAgent("lab", w.agentTOML("lab", r.intake(scheme), tables...))
	agent.WaitFor(2 * time.Minute)

	doors, complaints := r.doorsByCapture("each"), agent.complaints()
	for i, c := range captures {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("f%d", i)
			got := oracle.Reading{Complaint: complaints[name]}
			for number, address := range doors[name] {
				got.Frames = append(got.Frames, frames(t, number, readAll(t, address))...)
			}
			if d := oracle.Difference(got.ByInterface(), c.Read(t).ByInterface()); d != "" {
				t.Error(d)
			}
		})
	}
}

// captureFiles is the paths of all captures.
func captureFiles(t *testing.T) (files []string) {
	t.Helper()
	for _, c := range oracle.Captures(t) {
		files = append(files, c.Path)
	}
	return files
}

// doorsByCapture returns the addresses of an each = true listener by capture
// and the number of the interface in its file, which the stream's name ends
// with where there are several.
func (r *relay) doorsByCapture(listener string) map[string]map[int]string {
	r.t.Helper()
	var answer struct {
		Listeners []struct {
			Name  string
			Doors []door
		}
	}
	if err := json.Unmarshal([]byte(r.get("/api/v1/listeners")), &answer); err != nil {
		r.t.Fatal(err)
	}
	byCapture := map[string]map[int]string{}
	for _, l := range answer.Listeners {
		for _, d := range l.Doors {
			if l.Name != listener {
				continue
			}
			_, stream, _ := strings.Cut(d.Stream, "/")
			name, sub, several := strings.Cut(stream, ".")
			number, err := strconv.Atoi(sub)
			if several && err != nil {
				r.t.Fatalf("stream %s does not end with the number of an interface", d.Stream)
			}
			if byCapture[name] == nil {
				byCapture[name] = map[int]string{}
			}
			byCapture[name][number] = d.Address
		}
	}
	return byCapture
}

// complaints returns what an agent that has ended said of captures that it
// could not read to the end.
func (p *process) complaints() map[string]string {
	said := map[string]string{}
	for _, l := range p.Lines() {
		if name, ok := l["capture"].(string); ok && l["level"] == "ERROR" {
			said[name] += fmt.Sprint(l["error"])
		}
	}
	return said
}

// frames takes apart the nanosecond pcap that an analyst got of an interface.
// It is stricter than a reader of files: every record must have our form.
func frames(t *testing.T, number int, file []byte) (list []oracle.Frame) {
	t.Helper()
	header := pcap.AppendFileHeader(nil, 0, pcap.MaxCaptured, true)
	if len(file) < len(header) || string(file[:20]) != string(header[:20]) { // what is behind these is the link type
		t.Errorf("interface %d: %d bytes arrived, which begin with %x", number, len(file), file[:min(20, len(file))])
		return nil
	}
	link, records := binary.LittleEndian.Uint32(file[20:]), file[len(header):]
	if _, err := pcap.CountRecords(records); err != nil {
		t.Errorf("interface %d: %v", number, err)
		return nil
	}
	for len(records) > 0 {
		sec, nsec, captured, original := pcap.Record(records)
		data := records[pcap.RecordHeaderLen:][:captured]
		list = append(list, oracle.Frame{
			Interface: number, Link: int(link), Sec: int64(sec), Nsec: int64(nsec), Original: int64(original), Data: string(data),
		})
		records = records[pcap.RecordHeaderLen+captured:]
	}
	return list
}
