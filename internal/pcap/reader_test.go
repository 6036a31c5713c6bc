package pcap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"poip/internal/poiptest/oracle"
)

// TestAnyCutOfTheInputReadsTheSame feeds the captures byte by byte and in
// halves.
func TestAnyCutOfTheInputReadsTheSame(t *testing.T) {
	for _, c := range oracle.Captures(t) {
		content, err := os.ReadFile(c.Path)
		if err != nil {
			t.Fatal(err)
		}
		want := readOurs(content)
		for how, cut := range map[string]func(io.Reader) io.Reader{
			"one byte": iotest.OneByteReader, "half": iotest.HalfReader, "data with error": iotest.DataErrReader,
		} {
			if got := readAll(cut(bytes.NewReader(content))); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s at a time: %s", c.Name, how, oracle.Difference(got, want))
			}
		}
	}
}

func TestNextWaitsOnlyWhenNoWholePacketIsThere(t *testing.T) {
	one := little.record(1, 2, 3, 3, []byte("abc"))
	block := little.packet(0, someTime, []byte("abc"))
	head := join(little.section(0), little.iface(1, 0))
	for name, input := range map[string][][]byte{
		"pcap":   {little.usual(1), one, join(one, one, one[:18]), one[18:]},
		"pcapng": {head, block, join(block, block, block[:30]), block[30:]},
	} {
		t.Run(name, func(t *testing.T) {
			var events []string
			r, err := NewReader(readFunc(func(p []byte) (int, error) {
				if len(input) == 0 {
					return 0, io.EOF
				}
				events = append(events, "read")
				n := copy(p, input[0])
				input = input[1:]
				return n, nil
			}))
			for err == nil {
				if _, err = r.Next(); err == nil {
					events = append(events, "packet")
				}
			}
			if got, want := strings.Join(events, " "), "read read packet read packet packet read packet"; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestInterfacesAreNumberedOn(t *testing.T) {
	names := func(name, description string) []byte {
		return join(little.option(2, []byte(name)...), little.option(3, []byte(description)...))
	}
	r, err := NewReader(bytes.NewReader(join(
		little.section(0), little.iface(1, 96, names("eth0", "uplink")...), little.packet(0, someTime, someData),
		little.iface(101, 0, names("tun0\x00\x00", strings.Repeat("x", 300))...), little.packet(1, someTime, someData),
		little.section(0), little.iface(113, 0), little.packet(0, someTime, someData),
	)))
	if err != nil {
		t.Fatal(err)
	}
	want := []Interface{{1, 96, "eth0", "uplink"}, {101, 0, "tun0", strings.Repeat("x", 255)}, {113, 0, "", ""}}
	for i := range want {
		p, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Interface != i || !reflect.DeepEqual(r.Interfaces(), want[:i+1]) {
			t.Errorf("packet %d is of interface %d of %v", i, p.Interface, r.Interfaces())
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	one := little.record(1, 2, 3, 3, []byte("abc"))
	r, err := NewReader(bytes.NewReader(join(little.usual(1), one, one[:17])))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the same again
		_, err := r.Next()
		var e *Error
		if !errors.As(err, &e) || e.Offset != 43 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %#v", err)
		}
		if got, want := err.Error(), "offset 43: record: cut off after 17 of 19 bytes"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestErrorsOfTheInputArePassedOn(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, n := range []int{0, 10, 24, 30, 40} {
		content := join(little.usual(1), little.record(1, 2, 3, 3, []byte("abc")))
		got := readAll(io.MultiReader(bytes.NewReader(content[:n]), iotest.ErrReader(broken)))
		if !strings.Contains(got.Complaint, broken.Error()) {
			t.Errorf("after %d bytes: %q", n, got.Complaint)
		}
	}
	var e *Error
	if _, err := NewReader(iotest.ErrReader(broken)); !errors.Is(err, broken) || errors.As(err, &e) {
		t.Errorf("got %#v", err)
	}
}

func TestPacketsAreNotAllocated(t *testing.T) {
	record := little.record(1, 2, uint32(len(someData)), uint32(len(someData)), someData)
	block := little.packet(0, someTime, someData)
	for name, content := range map[string][]byte{
		"pcap":   join(little.usual(1), bytes.Repeat(record, 10000)),
		"pcapng": join(little.section(0), little.iface(1, 0), bytes.Repeat(block, 10000)),
	} {
		r, err := NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(9000, func() { _, _ = r.Next() }); n != 0 {
			t.Errorf("%s: %v allocations per packet", name, n)
		}
	}
}

// TestMemoryIsBounded reads inputs that say they need much.
func TestMemoryIsBounded(t *testing.T) {
	interfaces := bytes.Repeat(little.iface(1, 0), maxInterfaces+1)
	for name, content := range map[string][]byte{
		"captured":   join(little.usual(1), little.record(1, 2, 1<<32-1, 1<<32-1, nil)),
		"block":      join(little.section(0), little.words(0x99, maxBlock, 0)),
		"packet":     join(little.section(0), little.iface(1, 0), little.words(6, maxBlock, 0, 0, 0, MaxCaptured, MaxCaptured)),
		"interface":  join(little.section(0), little.words(1, maxBlock, 1, 0)),
		"section":    little.words(blockSection, maxBlock, byteOrderMagic, 1),
		"interfaces": join(little.section(0), interfaces),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got := readOurs(content)
			runtime.ReadMemStats(&after)
			if got.Complaint == "" {
				t.Error("read without complaint")
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
				t.Errorf("allocated %d bytes", used)
			}
		})
	}
}

func TestSeveralInterfaces(t *testing.T) {
	big20 := little.block(0x99, make([]byte, 20<<20))
	first := join(little.section(0), little.iface(1, 0), little.packet(0, someTime, someData))
	for name, c := range map[string]struct {
		content []byte
		want    bool
	}{
		"pcap":              {join(little.usual(1), little.record(1, 2, 3, 3, []byte("abc"))), false},
		"nothing":           {nil, false},
		"one":               {first, false},
		"two":               {join(first, little.iface(1, 0)), true},
		"two sections":      {join(first, big.section(0), big.iface(1, 0)), true},
		"behind much":       {join(first, big20, little.iface(1, 0)), true},
		"behind the damage": {join(first, make([]byte, 8), little.iface(1, 0)), false},
		"behind the end":    {join(first, big20[:8<<20]), false},
	} {
		if got := SeveralInterfaces(bytes.NewReader(c.content)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func BenchmarkReader(b *testing.B) {
	for _, size := range []int{64, 1400} {
		data := bytes.Repeat([]byte{0x5a}, size)
		record := little.record(1, 2, uint32(size), uint32(size), data)
		block := little.packet(0, someTime, data)
		for name, content := range map[string][]byte{
			"pcap":   join(little.usual(1), bytes.Repeat(record, 10000)),
			"pcapng": join(little.section(0), little.iface(1, 0), bytes.Repeat(block, 10000)),
		} {
			b.Run(fmt.Sprintf("%s/size=%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(len(content)))
				for b.Loop() {
					readToEnd(b, content)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/packet")
			})
		}
	}
}

func readToEnd(b *testing.B, content []byte) {
	r, err := NewReader(bytes.NewReader(content))
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		b.Fatal(err)
	}
}
