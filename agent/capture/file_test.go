package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/internal/pcap"
)

func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "capture.pcap")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileDeliversAllPacketsAndEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	tape := newTape()
	f := &File{Path: writeFile(t, captureOf("one", "", "three"))}
	if err := f.Run(t.Context(), tape.open); err != nil {
		t.Error(err)
	}
	expectTape(t, tape, "open", "packet  1.000000500 100 one", "empty", "packet  3.000000500 100 three", "flush")
	if want := []Info{{LinkType: 1, Snaplen: 1000}}; !reflect.DeepEqual(tape.infos, want) {
		t.Errorf("got %v", tape.infos)
	}
}

// TestFileIsReadInPlace: what a pcap.Reader holds before anybody asks for records
// comes packet by packet, and all the rest without a copy, where nothing is asked
// of each packet.
func TestFileIsReadInPlace(t *testing.T) {
	texts := make([]string, 10000)
	for i := range texts {
		texts[i] = strings.Repeat("x", 1+i%97)
	}
	path := writeFile(t, captureOf(texts...))
	for _, c := range []struct {
		how     string
		file    File
		inPlace bool
	}{
		{"as it is", File{}, true},
		{"the longest snaplen", File{Take: Take{Snaplen: pcap.MaxCaptured}}, true},
		{"a snaplen", File{Take: Take{Snaplen: 1000}}, false},
		{"a filter", File{Take: takeOf("x")}, false},
		{"a pace", File{Pace: PaceOriginal, pacer: &pacer{now: time.Now, sleep: func(context.Context, time.Duration) error { return nil }}}, false},
	} {
		tape := newTape()
		c.file.Path = path
		if err := c.file.Run(t.Context(), tape.open); err != nil {
			t.Error(err)
		}
		packets := 0
		for _, e := range tape.events {
			if strings.HasPrefix(e, "packet") {
				if want := fmt.Sprintf("packet  %d.000000500 100 %s", packets+1, texts[packets]); e != want {
					t.Fatalf("%s: %q, want %q", c.how, e, want)
				}
				packets++
			}
		}
		if packets != len(texts) {
			t.Errorf("%s: %d of %d packets", c.how, packets, len(texts))
		}
		if c.inPlace && tape.inPlace < packets/2 || !c.inPlace && tape.inPlace > 0 {
			t.Errorf("%s: %d of %d packets in place", c.how, tape.inPlace, packets)
		}
	}
}

func TestFileWithoutPacketsHasAStream(t *testing.T) {
	for _, name := range []string{"hdronly.pcap", "shbidb.pcapng"} {
		tape := newTape()
		f := &File{Path: filepath.Join(capturesFolder(), "edge", name)}
		if err := f.Run(t.Context(), tape.open); err != nil {
			t.Error(err)
		}
		if len(tape.infos) != 1 {
			t.Errorf("%s: %v", name, tape)
		}
	}
}

// TestFileAndStdinNameStreams reads a file whose second interface is declared
// late.
func TestFileAndStdinNameStreams(t *testing.T) {
	path := filepath.Join(capturesFolder(), "edge", "late_idb.pcapng")
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		source Source
		want   []string
	}{
		{&File{Path: path}, []string{"0", "1"}},
		{&Stdin{R: file}, []string{"", "1"}},
		{&File{Path: filepath.Join(capturesFolder(), "edge", "two_sections.pcapng")}, []string{"0", "1"}},
		{&File{Path: filepath.Join(capturesFolder(), "edge", "one.pcapng")}, []string{""}},
	} {
		tape := newTape()
		if err := c.source.Run(t.Context(), tape.open); err != nil {
			t.Error(err)
		}
		var got []string
		for _, i := range tape.infos {
			got = append(got, i.Sub)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%T: streams %q, want %q", c.source, got, c.want)
		}
	}
}

// TestEverySourceReadsTheSame compares File and Stdin with a pcap.Reader on all
// captures.
func TestEverySourceReadsTheSame(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(capturesFolder(), "*", "*.pcap*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no captures in %s; set POIP_CAPTURES (%v)", capturesFolder(), err)
	}
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		want, wantErr := readAll(t, path)
		for _, s := range []Source{&File{Path: path}, &Stdin{R: file}} {
			tape := newTape()
			err := s.Run(t.Context(), tape.open)
			if got := tape.count("packet") + tape.count("empty"); got != want {
				t.Errorf("%s: %T delivered %d packets of %d", path, s, got, want)
			}
			if (err == nil) != (wantErr == nil) || err != nil && !errors.Is(err, ErrBroken) {
				t.Errorf("%s: %T ended with %v, not %v", path, s, err, wantErr)
			}
		}
		file.Close()
	}
}

func readAll(t *testing.T, path string) (packets int, err error) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := pcap.NewReader(file)
	for err == nil {
		if _, err = r.Next(); err == nil {
			packets++
		}
	}
	if err == io.EOF {
		return packets, nil
	}
	return packets, err
}

func TestFileThatIsDamagedSaysWhere(t *testing.T) {
	whole := captureOf("one", "two")
	path := writeFile(t, whole[:len(whole)-1])
	tape := newTape()
	err := (&File{Path: path}).Run(t.Context(), tape.open)
	want := fmt.Sprintf("read file %s: offset 43: record: cut off after 18 of 19 bytes", path)
	if !errors.Is(err, ErrBroken) || err.Error() != want {
		t.Errorf("\ngot  %v\nwant %s", err, want)
	}
	expectTape(t, tape, "open", "packet  1.000000500 100 one", "flush")
}

func TestFileThatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for path, want := range map[string]string{
		missing:                      "read file " + missing + ": no such file or directory",
		os.DevNull:                   "read file /dev/null: it is not a regular file: read it by stdin, or by a command as in [\"cat\", PATH]",
		writeFile(t, []byte("MZ!!")): ": offset 0: not a pcap or pcapng file: begins with 4d 5a 21 21",
	} {
		tape := newTape()
		err := (&File{Path: path}).Run(t.Context(), tape.open)
		if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), want) {
			t.Errorf("\ngot  %v\nwant %s", err, want)
		}
		expectTape(t, tape)
	}
	if err := (&File{Path: missing}).Run(t.Context(), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestTakeFiltersAndCuts(t *testing.T) {
	tape := newTape()
	take := takeOf("e")
	take.Snaplen = 2
	f := &File{Path: writeFile(t, captureOf("one", "two", "three", "")), Take: take}
	if err := f.Run(t.Context(), tape.open); err != nil {
		t.Error(err)
	}
	expectTape(t, tape, "open", "packet  1.000000500 100 on", "packet  3.000000500 100 th", "flush")
	if tape.infos[0].Snaplen != 2 {
		t.Errorf("got %v", tape.infos)
	}
}

func TestFilterThatDoesNotSuitBreaksTheCapture(t *testing.T) {
	refusal := errors.New("no such thing as a port on this link type")
	f := &File{Path: writeFile(t, captureOf("one")), Take: Take{
		Filter: func(_ context.Context, linkType pcap.LinkType, snaplen uint32) (func(uint32, []byte) bool, error) {
			if linkType != pcap.LinkEthernet || snaplen != 1000 {
				t.Errorf("asked for %v, %d", linkType, snaplen)
			}
			return nil, refusal
		},
	}}
	tape := newTape()
	if err := f.Run(t.Context(), tape.open); !errors.Is(err, ErrBroken) || !errors.Is(err, refusal) {
		t.Errorf("got %v", err)
	}
	expectTape(t, tape)
}

func TestFileTellsItsProgress(t *testing.T) {
	content := captureOf(strings.Repeat("x", 200000), strings.Repeat("y", 200000))
	var done, total int64
	f := &File{Path: writeFile(t, content), Progress: func(d, n int64) {
		if d < done {
			t.Errorf("%d after %d", d, done)
		}
		done, total = d, n
	}}
	if err := f.Run(t.Context(), newTape().open); err != nil {
		t.Error(err)
	}
	if size := int64(len(content)); done != size || total != size {
		t.Errorf("%d of %d, want %d", done, total, size)
	}
}

func TestFileEndsWhenCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &File{Path: writeFile(t, captureOf("one"))}
	if err := f.Run(ctx, newTape().open); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// TestPaceOriginalKeepsPauses has a clock of its own.
func TestPaceOriginalKeepsPauses(t *testing.T) {
	tape := newTape()
	clock := time.Unix(5000, 0)
	pauses := &pacer{
		now: func() time.Time { return clock },
		sleep: func(_ context.Context, d time.Duration) error {
			tape.note("sleep %v", d)
			clock = clock.Add(d)
			return nil
		},
	}
	file := pcap.AppendFileHeader(nil, pcap.LinkEthernet, 1000, true)
	for _, at := range []float64{100, 100.25, 100.2505, 100.2512, 90, 91, 0, 91.5} {
		file = pcap.AppendRecord(file, uint32(at), uint32((at-float64(int(at)))*1e9), 3, []byte("abc"))
	}
	f := &File{Path: writeFile(t, file), Pace: PaceOriginal, pacer: pauses}
	if err := f.Run(t.Context(), tape.open); err != nil {
		t.Error(err)
	}
	var got []string
	for _, e := range tape.events {
		got = append(got, strings.SplitN(strings.TrimSuffix(e, " 3 abc"), ".", 2)[0])
	}
	want := "open, packet  100, flush, sleep 250ms, packet  100, packet  100, flush, sleep 1, packet  100, " +
		"packet  90, flush, sleep 1s, packet  91, packet  0, flush, sleep 500ms, packet  91, flush"
	if strings.Join(got, ", ") != want {
		t.Errorf("\ngot  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

func TestPaceEndsWhenCanceled(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithCancel(t.Context())
	file := pcap.AppendFileHeader(nil, pcap.LinkEthernet, 1000, true)
	file = pcap.AppendRecord(file, 1, 0, 3, []byte("abc"))
	file = pcap.AppendRecord(file, 1e9, 0, 3, []byte("def"))
	tape := newTape()
	done := make(chan error)
	go func() {
		done <- (&File{Path: writeFile(t, file), Pace: PaceOriginal}).Run(ctx, tape.open)
	}()
	tape.await("flush", 1) // just before it sleeps for thirty years
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("got %v", err)
	}
}
