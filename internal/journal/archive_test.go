package journal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"poip/internal/wire"
)

func TestAnArchiveIsLookedAtWhileItIsWritten(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{Segment: 20 << 10})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 40)
	j.Gap(wire.Gap{First: next, Count: 7, Cause: wire.CauseKernelDrop}, 500)
	next = write(j, next+7, 1)
	j.Gap(wire.Gap{First: next, Cause: wire.CauseAgentCrash}, 501)
	j.End(false, 502)
	j.Begin(testEpoch(2), 0)
	write(j, 0, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	before := listDir(t, dir)
	a, err := Inspect(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	packets, lost, unknown, live := uint64(0), uint64(0), 0, 0
	for _, s := range a.Segments() {
		packets += s.Packets
		lost += s.Lost[wire.CauseKernelDrop]
		unknown += s.Unknown
		if s.Live {
			live++
		}
		if len(s.Damaged) > 0 || s.Missing > 0 {
			t.Errorf("segment %+v is damaged", s)
		}
	}
	if packets != 440 || lost != 7 || unknown != 1 || live != 1 {
		t.Errorf("the archive has %d packets, %d lost, %d gaps of unknown count, %d segments being written", packets, lost, unknown, live)
	}
	last := a.Segments()[len(a.Segments())-1]
	if last.Epoch != testEpoch(2) || last.Next != 30 {
		t.Errorf("the last segment is %+v", last)
	}
	if all, _ := readAll(t, a.Read()); len(all) != 47 {
		t.Errorf("read %d entries, want 47", len(all))
	}
	if err := a.Verify(func(segment string, problem error) { t.Errorf("%s: %v", segment, problem) }); err != nil {
		t.Error(err)
	}
	write(j, 30, 300) // more segments, and the oldest go
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	j.Keep(30<<10, 0)
	within(t, "segments are deleted", func() bool { return len(listDir(t, dir)) <= len(before) })
	if all, _ := readAll(t, a.Read()); len(all) >= 47 {
		t.Errorf("read %d entries after most were deleted", len(all))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnArchiveFollowsWhatIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 30)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+packetSuffix))
	if err := errorsOf(err, flipFile(files[0], 20000)); err != nil {
		t.Fatal(err)
	}
	a, err := Inspect(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir, Options{Damage: wire.CauseHistoryCorrupt})
	readAll(t, j.ReadOrdinal(0))
	if err := j.Close(); err != nil { // the segment has been made anew
		t.Fatal(err)
	}
	all, _ := readAll(t, a.Read())
	if at, lost := extent(t, all); at != next || lost != 10 {
		t.Errorf("read up to %d of %d, %d lost; want 10", at, next, lost)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

func listDir(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		names = append(names, d.Name())
	}
	return names
}

func TestVerifyFindsWhatIsDamaged(t *testing.T) {
	for what, harm := range map[string]func(packets string) error{
		"a bit of the packets": func(p string) error { return flipFile(p, 3000) },
		"a bit of the index":   func(p string) error { return flipFile(indexOf(p), headerLen+130) },
		"a bit of the seal":    func(p string) error { return flipFile(indexOf(p), -20) },
		"a lost segment":       func(p string) error { return errorsOf(os.Remove(p), os.Remove(indexOf(p))) },
		"a lost index":         func(p string) error { return os.Remove(indexOf(p)) },
		"packets cut short":    func(p string) error { return os.Truncate(p, 5000) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			j := mustOpen(t, dir, Options{Segment: 20 << 10})
			j.Begin(testEpoch(1), 0)
			write(j, 0, 80)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*"+packetSuffix))
			if err != nil || len(files) < 3 {
				t.Fatal(files, err)
			}
			if err := harm(files[1]); err != nil {
				t.Fatal(err)
			}
			names := strings.Join(listDir(t, dir), " ")
			a, err := Inspect(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			found := 0
			if err := a.Verify(func(string, error) { found++ }); err != nil {
				t.Fatal(err)
			}
			if found == 0 && what != "a bit of the seal" { // which is as good as one that was never written
				t.Error("nothing was found")
			}
			next := wire.PacketNumber(0)
			all, _ := readAll(t, a.Read())
			for _, e := range all {
				if e.First != next {
					t.Errorf("entry %+v, want it at %d", e, next)
				}
				next = e.Next()
			}
			if next != 800 {
				t.Errorf("the archive ends at %d, want 800", next)
			}
			if now := strings.Join(listDir(t, dir), " "); now != names {
				t.Errorf("the folder was changed: %s, before %s", now, names)
			}
		})
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// flipFile flips a bit; a negative offset counts from the end.
func flipFile(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 16
	return os.WriteFile(path, b, 0o600)
}

func TestOpeningReadsOnlyWhatNoSealVouchesFor(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 20 << 10})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 100)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	left := d.crash()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files := packetFiles(left)
	reads := map[string]int{}
	left.failing = func(op, name string) error {
		if op == "read" {
			reads[name]++
		}
		return nil
	}
	again := openModel(t, left, Options{Segment: 20 << 10})
	left.mu.Lock()
	for i, f := range files {
		if last := i == len(files)-1; last != (reads[f] > 1) {
			t.Errorf("%s, segment %d of %d, was read %d times", f, i, len(files), reads[f])
		}
		if reads[indexOf(f)] > 5 && i < len(files)-1 {
			t.Errorf("index %d of %d was read %d times", i, len(files), reads[indexOf(f)])
		}
	}
	left.failing = nil
	left.mu.Unlock()
	wholeFrom(t, again, 0, next)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
