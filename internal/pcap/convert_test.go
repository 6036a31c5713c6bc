package pcap

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
)

func TestFileHeaderIsWhatEveryToolReads(t *testing.T) {
	cases := []struct {
		name    string
		link    LinkType
		snaplen uint32
		nano    bool
		want    string
	}{
		{"the default listener", LinkEthernet, 65535, false, "d4c3b2a1020004000000000000000000ffff000001000000"},
		{"nanoseconds", LinkEthernet, 262144, true, "4d3cb2a10200040000000000000000000000040001000000"},
		{"a link type above 255", LinkSLL2, 65535, false, "d4c3b2a1020004000000000000000000ffff000014010000"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := hex.EncodeToString(AppendFileHeader(nil, c.link, c.snaplen, c.nano))
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestConvert(t *testing.T) {
	long, short := bytes.Repeat([]byte("x"), 100), []byte("abc")
	in := AppendRecord(nil, 7, 999999999, 1500, long)
	in = AppendRecord(in, 8, 1999, 3, short)
	in = AppendRecord(in, 9, 0, 100, long)
	in = AppendRecord(in, 10, 1000, 101, long)

	render := func(divide uint32, snaplen int) []byte {
		cut := func(b []byte) []byte { return b[:min(snaplen, len(b))] }
		out := AppendRecord([]byte("before"), 7, 999999999/divide, 1500, cut(long))
		out = AppendRecord(out, 8, 1999/divide, 3, cut(short))
		out = AppendRecord(out, 9, 0, 100, cut(long))
		return AppendRecord(out, 10, 1000/divide, 101, cut(long))
	}
	for _, micro := range []bool{false, true} {
		for _, snaplen := range []int{1, 2, 3, 4, 99, 100, 101, MaxCaptured} {
			divide := uint32(1)
			if micro {
				divide = 1000
			}
			got := Convert([]byte("before"), in, micro, uint32(snaplen))
			if want := render(divide, snaplen); !bytes.Equal(got, want) {
				t.Errorf("micro %v, snaplen %d:\ngot  %x\nwant %x", micro, snaplen, got, want)
			}
		}
	}
}

func TestConvertOfNothing(t *testing.T) {
	if got := Convert(nil, nil, true, 65535); len(got) != 0 {
		t.Errorf("got %x", got)
	}
}

func TestConvertNeedsNoMoreRoomThanItIsGiven(t *testing.T) {
	in := records(t, 64<<10, 80)
	dst := make([]byte, 0, len(in))
	for _, snaplen := range []uint32{1, 64, 65535} {
		if n := testing.AllocsPerRun(10, func() { Convert(dst, in, true, snaplen) }); n != 0 {
			t.Errorf("snaplen %d: %v allocations", snaplen, n)
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	for _, size := range []int{64, 1400} {
		for _, snaplen := range []uint32{96, 65535} {
			b.Run(fmt.Sprintf("size=%d/snaplen=%d", size, snaplen), func(b *testing.B) {
				in := records(b, 256<<10, size)
				count, _ := CountRecords(in)
				dst := make([]byte, 0, len(in))
				b.SetBytes(int64(len(in)))
				for b.Loop() {
					Convert(dst, in, true, snaplen)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(count), "ns/record")
			})
		}
	}
}

// records makes about total bytes of records of size captured bytes each.
func records(t testing.TB, total, size int) []byte {
	t.Helper()
	data := bytes.Repeat([]byte{0x5a}, size)
	var out []byte
	for i := uint32(0); len(out)+RecordHeaderLen+size <= total; i++ {
		out = AppendRecord(out, i, i*1000, uint32(size), data)
	}
	return out
}
