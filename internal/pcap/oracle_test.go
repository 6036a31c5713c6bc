package pcap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// frame is a packet as some reader delivered it, made comparable: its fraction
// is below a second and its original length no less than the captured one.
type frame struct {
	iface    string // whatever the reader calls the interface
	sec      int64
	nsec     int64
	original int64
	data     string
}

func (f frame) canonical() frame {
	f.sec, f.nsec = f.sec+f.nsec/1e9, f.nsec%1e9
	f.original = max(f.original, int64(len(f.data)))
	return f
}

// reading is what came of reading a file: the frames, and what was said of it
// if it could not be read to its end.
type reading struct {
	frames    []frame
	complaint string
}

// readOurs reads with the Reader of this package.
func readOurs(content []byte) reading { return readAll(bytes.NewReader(content)) }

func readAll(in io.Reader) reading {
	var got reading
	r, err := NewReader(in)
	for err == nil {
		var p *Packet
		if p, err = r.Next(); err == nil {
			got.frames = append(got.frames, frame{strconv.Itoa(p.Interface), int64(p.Sec), int64(p.Nsec), int64(p.Original), string(p.Data)})
		}
	}
	if err != io.EOF {
		got.complaint = err.Error()
	}
	return got
}

// readWireshark reads with whichever of the next two can do it.
func readWireshark(t *testing.T, path string, content []byte) reading {
	t.Helper()
	if bytes.Count(content, []byte("\n\r\r\n")) > 1 {
		return readTshark(t, path)
	}
	got, ok := readEditcap(t, path, content)
	if !ok {
		return readTshark(t, path)
	}
	return got
}

// readEditcap reads with Wireshark's library, which is fast this way. It
// cannot cope with several sections, a file without interfaces, or resolutions
// other than 10^-9 and coarser powers of ten.
func readEditcap(t *testing.T, path string, content []byte) (got reading, ok bool) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	format, split := "nsecpcap", splitRecords
	if bytes.HasPrefix(content, []byte("\n\r\r\n")) {
		format, split = "pcapng", splitBlocks
	}
	var said bytes.Buffer
	cmd := exec.Command("editcap", "-F", format, path, out)
	cmd.Stderr = &said
	_ = cmd.Run() // its status tells less than what it says
	content, _ = os.ReadFile(out)
	got.complaint = said.String()
	got.frames, ok = split(content)
	return got, ok && !strings.Contains(got.complaint, "can't be written")
}

// splitBlocks takes apart a pcapng file that Wireshark has written: of one
// section, little-endian, times of a power of ten, enhanced packet blocks only.
func splitBlocks(b []byte) (frames []frame, ok bool) {
	le := binary.LittleEndian
	var units []uint64
	for len(b) >= 28 {
		length := le.Uint32(b[4:])
		switch le.Uint32(b) {
		case 1:
			units = append(units, 1e6)
			for o := b[16 : length-4]; len(o) >= 4; o = o[4+(le.Uint16(o[2:])+3)&^3:] {
				if le.Uint16(o) == 9 && o[4] > 9 {
					return nil, false
				} else if le.Uint16(o) == 9 {
					units[len(units)-1] = pow10(o[4])
				}
			}
		case 6:
			id, stamp := le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))<<32|uint64(le.Uint32(b[16:]))
			u := units[id]
			frames = append(frames, frame{
				fmt.Sprint(id), int64(stamp / u), int64(stamp % u * (1e9 / u)),
				int64(le.Uint32(b[24:])), string(b[28 : 28+le.Uint32(b[20:])]),
			}.canonical())
		}
		b = b[length:]
	}
	return frames, true
}

func pow10(n byte) uint64 {
	v := uint64(1)
	for range n {
		v *= 10
	}
	return v
}

// readTshark reads with tshark itself.
func readTshark(t *testing.T, path string) reading {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command("tshark", "-n", "-r", path, "-T", "json", "-x", "-j", "frame")
	cmd.Stderr = &said
	out, runErr := cmd.Output()
	got := reading{}
	if runErr != nil {
		got.complaint = said.String()
	}
	if len(out) == 0 && runErr != nil {
		return got
	}
	var list []tsharkFrame
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("tshark's JSON: %v", err)
	}
	for _, f := range list {
		l := f.Source.Layers
		if strings.HasSuffix(path, "ng") && l.Frame.ID == "" {
			continue // a custom block or journal entry, which tshark lists too
		}
		got.frames = append(got.frames, l.frame(t).canonical())
	}
	return got
}

type tsharkFrame struct {
	Source struct {
		Layers tsharkLayers `json:"layers"`
	} `json:"_source"`
}

type tsharkLayers struct {
	Raw   []any `json:"frame_raw"`
	Frame struct {
		Section string `json:"frame.section_number"`
		ID      string `json:"frame.interface_id"`
		Time    string `json:"frame.time_epoch"`
		Len     string `json:"frame.len"`
		CapLen  string `json:"frame.cap_len"`
	} `json:"frame"`
}

func (l tsharkLayers) frame(t *testing.T) frame {
	t.Helper()
	f := frame{iface: l.Frame.Section + "/" + l.Frame.ID}
	if whole, fraction, timed := strings.Cut(l.Frame.Time, "."); timed {
		f.sec, f.nsec = number(t, whole), number(t, fraction)
	}
	f.original = number(t, l.Frame.Len)
	if number(t, l.Frame.CapLen) > 0 {
		data, err := hex.DecodeString(l.Raw[0].(string))
		if err != nil {
			t.Fatal(err)
		}
		f.data = string(data)
	}
	return f
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// readTcpdump reads with libpcap.
func readTcpdump(t *testing.T, path string) reading {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command("tcpdump", "--nano", "-r", path, "-w", "-")
	cmd.Stderr = &said
	out, err := cmd.Output()
	got := reading{}
	if err != nil {
		got.complaint = said.String()
	}
	got.frames, _ = splitRecords(out)
	return got
}

// splitRecords takes apart a pcap file that a tool has written, little-endian
// and with nanoseconds.
func splitRecords(b []byte) (frames []frame, ok bool) {
	for b = b[min(len(b), FileHeaderLen):]; len(b) >= RecordHeaderLen; {
		sec, nsec, captured, original := Record(b)
		b = b[RecordHeaderLen:]
		frames = append(frames, frame{"0", int64(sec), int64(nsec), int64(original), string(b[:captured])}.canonical())
		b = b[captured:]
	}
	return frames, true
}

// difference tells how two readings differ, or is empty. Interfaces may have
// other names, but need to be the same ones.
func difference(got, want reading) string {
	if (got.complaint == "") != (want.complaint == "") {
		return fmt.Sprintf("we complain %q, they %q", got.complaint, want.complaint)
	}
	ours, theirs := map[string]string{}, map[string]string{}
	for i := range min(len(got.frames), len(want.frames)) {
		g, w := got.frames[i], want.frames[i]
		if _, seen := ours[w.iface]; !seen && theirs[g.iface] == "" {
			ours[w.iface], theirs[g.iface] = g.iface, w.iface
		}
		if ours[w.iface] != g.iface {
			return fmt.Sprintf("frame %d: our interface %s, theirs %s", i, g.iface, w.iface)
		}
		w.iface = g.iface
		if g != w {
			return fmt.Sprintf("frame %d:\nours   %.200q\ntheirs %.200q", i, fmt.Sprint(g), fmt.Sprint(w))
		}
	}
	if len(got.frames) != len(want.frames) {
		return fmt.Sprintf("%d frames, theirs are %d; we complain %q, they %q", len(got.frames), len(want.frames), got.complaint, want.complaint)
	}
	return ""
}
