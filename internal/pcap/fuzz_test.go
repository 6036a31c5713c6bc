package pcap

import (
	"bytes"
	"reflect"
	"testing"

	"poip/internal/poiptest/oracle"
)

func FuzzPcapReader(f *testing.F) {
	for _, o := range oddClassics() {
		if len(o.content) < 4096 {
			f.Add(o.content)
		}
	}
	f.Fuzz(readTwice)
}

func FuzzPcapngReader(f *testing.F) {
	for _, o := range oddNGs() {
		if len(o.content) < 4096 {
			f.Add(o.content)
		}
	}
	f.Fuzz(readTwice)
}

// readTwice reads whatever it is given, in place too, writes what it got in the
// record form, and must read the same from that.
func readTwice(t *testing.T, content []byte) {
	r, err := NewReader(bytes.NewReader(content))
	if err != nil {
		return
	}
	ours, size := readOurs(content), 1+len(content)/3
	if got, _ := readDirect(t, pieces(content, size), 2*size); !reflect.DeepEqual(got, ours) {
		t.Errorf("in place: %s", oracle.Difference(got, ours))
	}
	var records []byte
	var want []oracle.Frame
	for {
		p, err := r.Next()
		if err != nil {
			break
		}
		if len(p.Data) > 0 {
			records = AppendRecord(records, p.Sec, p.Nsec, p.Original, p.Data)
			want = append(want, oracle.Frame{Link: int(LinkRaw), Sec: int64(p.Sec), Nsec: int64(p.Nsec), Original: int64(p.Original), Data: string(p.Data)})
		}
	}
	if len(r.in.buf) > maxWindow || len(r.interfaces) > maxInterfaces {
		t.Errorf("holds a window of %d bytes and %d interfaces", len(r.in.buf), len(r.interfaces))
	}
	if n, err := CountRecords(records); n != len(want) || err != nil {
		t.Fatalf("%d of %d packets are records: %v", n, len(want), err)
	}
	for _, nano := range []bool{true, false} {
		checkRecords(t, records, want, nano)
	}
	SeveralInterfaces(bytes.NewReader(content))
}

func checkRecords(t *testing.T, records []byte, want []oracle.Frame, nano bool) {
	t.Helper()
	written := Convert(AppendFileHeader(nil, LinkRaw, MaxCaptured, nano), records, !nano, MaxCaptured)
	got := readOurs(written)
	if !nano {
		want = append([]oracle.Frame(nil), want...)
		for i := range want {
			want[i].Nsec -= want[i].Nsec % 1000
		}
	}
	if got.Complaint != "" || !reflect.DeepEqual(got.Frames, want) {
		t.Errorf("read again: %s", oracle.Difference(got, oracle.Reading{Frames: want}))
	}
}
