package journal

import (
	"bytes"
	"log/slog"
	"testing"
)

// TestAKillWhileASegmentIsMadeIsNoDamage: before whatever operation on a file,
// neither who looks on nor who recovers takes what is there for damaged.
func TestAKillWhileASegmentIsMadeIsNoDamage(t *testing.T) {
	kills := 0
	for cut := 1; ; cut++ {
		d, ops := newDisk(), 0
		var killed *disk
		var before string
		d.failing = func(op, name string) error {
			if ops++; ops == cut {
				before = op + " " + name
				d.mu.Unlock()
				killed = d.crash()
				d.mu.Lock()
			}
			return nil
		}
		j := openModel(t, d, Options{Segment: 6000})
		j.Begin(testEpoch(1), 0)
		write(j, 0, 9)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if killed == nil {
			break
		}
		kills++
		for _, s := range inspectModel(t, killed.crash()).Segments() {
			if len(s.Damaged) > 0 {
				t.Errorf("killed before %s, %s looks damaged: %v", before, s.Name, s.Damaged)
			}
		}
		var log bytes.Buffer
		j = openModel(t, killed, Options{Segment: 6000, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		if log.Len() > 0 || len(killed.names(quarantine)) > 0 {
			t.Errorf("killed before %s: in quarantine %q, logged\n%s", before, killed.names(quarantine), log.String())
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if kills < 30 {
		t.Errorf("%d kills are no proof", kills)
	}
}

// TestLostPacketsOfTheLastRoundAreSaid: nothing says whether that round was
// confirmed, and it may have been.
func TestLostPacketsOfTheLastRoundAreSaid(t *testing.T) {
	d := newDisk()
	j := openModel(t, d, Options{Segment: 6000})
	j.Begin(testEpoch(1), 0)
	next := write(j, 0, 2)
	if err := j.Sync(); err != nil || !j.Retire() {
		t.Fatal(err)
	}
	write(j, next, 1)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	left := d.crash()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	files := packetFiles(left)
	left.erase(files[len(files)-1])
	var log bytes.Buffer
	j = openModel(t, left, Options{Segment: 6000, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer j.Close()
	wholeFrom(t, j, 0, next)
	if log.Len() == 0 || len(left.names(quarantine)) != 1 {
		t.Errorf("in quarantine %q, logged %q", left.names(quarantine), log.String())
	}
}

// TestTheLogDoesNotGoBack: the only segment was being deleted, on a full disk,
// and of the next one there is but a name.
func TestTheLogDoesNotGoBack(t *testing.T) {
	for what, length := range map[string]int{"a name": 0, "an index": headerLen} {
		d := newDisk()
		j := openModel(t, d, Options{})
		j.Begin(testEpoch(1), 0)
		next := write(j, 0, 2)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		d.erase(packetFiles(d)[0])
		later := header{epoch: testEpoch(1), seq: 2, first: next, ordinal: uint64(next), created: 5}
		d.set(later.name().index(), later.append(nil)[:length])
		j = openModel(t, d, Options{})
		if j.Next() != uint64(next) || j.Appended().Next != next {
			t.Errorf("with %s of the next segment, the log stands at %+v; want number and ordinal %d", what, j.Appended(), next)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
