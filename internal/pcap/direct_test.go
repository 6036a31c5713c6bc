package pcap

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"testing"

	"poip/internal/poiptest/oracle"
)

// pieces hands out an input's file header by itself, so that no record is held
// when the first is asked for, and then at most n bytes at a time.
func pieces(content []byte, n int) io.Reader {
	length := FileHeaderLen
	return readFunc(func(p []byte) (int, error) {
		if len(content) == 0 {
			return 0, io.EOF
		}
		got := copy(p, content[:min(length, len(content))])
		content, length = content[got:], n
		return got, nil
	})
}

// readDirect reads as a File does: by Records where they may be, and by Next
// what these leave.
func readDirect(t testing.TB, in io.Reader, room int) (got oracle.Reading, inPlace int) {
	t.Helper()
	r, err := NewReader(in)
	dst := make([]byte, room)
	for err == nil {
		for r.Direct() {
			run := r.Records(dst)
			if run.Count == 0 {
				break
			}
			frames := framesOf(t, dst[:run.Len], r.interfaces[0].LinkType)
			expectRun(t, run, frames)
			got.Frames = append(got.Frames, frames...)
			inPlace += run.Count
		}
		var p *Packet
		if p, err = r.Next(); err == nil {
			got.Frames = append(got.Frames, frameOf(r, p))
		}
	}
	if err != io.EOF {
		got.Complaint = err.Error()
	}
	return got, inPlace
}

// framesOf takes records apart, which CountRecords has to accept.
func framesOf(t testing.TB, records []byte, link LinkType) (frames []oracle.Frame) {
	t.Helper()
	if _, err := CountRecords(records); err != nil {
		t.Fatal(err)
	}
	for len(records) > 0 {
		sec, nsec, captured, original := Record(records)
		data := records[RecordHeaderLen : RecordHeaderLen+captured]
		frames = append(frames, oracle.Frame{Link: int(link), Sec: int64(sec), Nsec: int64(nsec), Original: int64(original), Data: string(data)})
		records = records[RecordHeaderLen+captured:]
	}
	return frames
}

func expectRun(t testing.TB, got Run, frames []oracle.Frame) {
	t.Helper()
	want := Run{Len: got.Len, Count: len(frames), Earliest: math.MaxInt64, Latest: math.MinInt64}
	for _, f := range frames {
		at := f.Sec*1e9 + f.Nsec
		want.Earliest, want.Latest = min(want.Earliest, at), max(want.Latest, at)
	}
	if got != want {
		t.Errorf("run %+v, want %+v", got, want)
	}
}

// TestRecordsAndNextReadTheSame reads every capture and every odd one in place,
// in pieces that cut records anywhere.
func TestRecordsAndNextReadTheSame(t *testing.T) {
	inputs := map[string][]byte{}
	for _, c := range oracle.Captures(t) {
		content, err := os.ReadFile(c.Path)
		if err != nil {
			t.Fatal(err)
		}
		inputs[c.Name] = content
	}
	for _, o := range append(oddClassics(), oddNGs()...) {
		inputs[o.name] = o.content
	}
	all := 0
	for name, content := range inputs {
		want := readOurs(content)
		for _, sizes := range [][2]int{{40, 17}, {200, 150}, {1000, 4096}, {4096, 1000}, {64 << 10, 64 << 10}} {
			got, inPlace := readDirect(t, pieces(content, sizes[1]), sizes[0])
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s, room of %d, pieces of %d: %s", name, sizes[0], sizes[1], oracle.Difference(got, want))
			}
			all += inPlace
		}
	}
	if all == 0 {
		t.Error("nothing was read in place")
	}
}

// TestRecordsAreReadInPlace: only the record that a room cuts needs Next, and
// only where it does not fit into the next room either.
func TestRecordsAreReadInPlace(t *testing.T) {
	content := little.usual(1)
	for i := range uint32(1000) {
		content = append(content, little.record(i, 5, 700, 700, make([]byte, 700))...)
	}
	got, inPlace := readDirect(t, pieces(content, len(content)), 64<<10)
	if len(got.Frames) != 1000 || inPlace != 1000 {
		t.Errorf("%d of %d packets in place", inPlace, len(got.Frames))
	}
	if got, inPlace := readDirect(t, pieces(content, len(content)), 100); len(got.Frames) != 1000 || inPlace != 0 {
		t.Errorf("%d of %d packets in a room of 100 bytes", inPlace, len(got.Frames))
	}
}

// TestWhatRecordsLeavesIsWhereItWas: errors name offsets.
func TestWhatRecordsLeavesIsWhereItWas(t *testing.T) {
	one := little.record(1, 2, 3, 3, []byte("abc"))
	bad := little.record(1, 2, MaxCaptured+1, MaxCaptured+1, nil)
	for _, piece := range []int{19, 30, 1000} {
		got, _ := readDirect(t, pieces(join(little.usual(1), one, one, one, bad), piece), 64<<10)
		want := fmt.Sprintf("offset %d: record of %d captured bytes; %d are the most", FileHeaderLen+3*len(one), MaxCaptured+1, MaxCaptured)
		if got.Complaint != want || len(got.Frames) != 3 {
			t.Errorf("pieces of %d: %d packets and %q, want %q", piece, len(got.Frames), got.Complaint, want)
		}
	}
}

func TestRecordsAllocateNothing(t *testing.T) {
	content := little.usual(1)
	for i := range uint32(100) {
		content = append(content, little.record(i, 5, 700, 700, make([]byte, 700))...)
	}
	in := bytes.NewReader(content)
	r, err := NewReader(pieces(content, 1))
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 4096)
	r.in.in = in
	if n := testing.AllocsPerRun(100, func() {
		in.Reset(content[FileHeaderLen:])
		r.in.replace(nil, 0)
		if r.Records(dst).Count != 4096/716 {
			t.Fatal("no records")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
