package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"poip/certs"
	"poip/internal/audit"
	"poip/internal/wire"
)

// auditLines are what an audit log holds.
func auditLines(t *testing.T, path string) (out []audit.Entry) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e audit.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// TestAFloodOfTriesHidesNoThief: a thousand refusals of one kind are a few lines
// and a number, and beside them each other kind has lines of its own. It fails if
// auditJoin gives all of them one word.
func TestAFloodOfTriesHidesNoThief(t *testing.T) {
	path := filepath.Join(t.TempDir(), audit.File)
	log, err := audit.Open(path, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const flood = 1000
	for range flood {
		auditJoin(log, certs.JoinEvent{Code: wire.CodeLimit, Refused: "too many tries"})
	}
	auditJoin(log, certs.JoinEvent{Code: wire.CodeForbidden, Token: "01", Refused: "no such token"})
	auditJoin(log, certs.JoinEvent{Code: wire.CodeForbidden, Token: "02", Sensor: "branch-7", Refused: "the proof does not hold"})
	auditJoin(log, certs.JoinEvent{Token: "02", Sensor: "branch-7", Serial: "03"})
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var tries, counted, others int
	for _, e := range auditLines(t, path) {
		switch {
		case e.Event == audit.Withheld && e.Of == audit.EnrollmentRefused:
			counted += int(e.Count)
		case e.Event == audit.EnrollmentRefused && e.Token == "":
			tries++
		case e.Event == audit.EnrollmentRefused && (e.Token == "01" || e.Token == "02" && e.Sensor == "branch-7"):
			others++
		case e.Event == audit.SensorEnrolled && e.Token == "02" && e.Serial == "03":
			others++
		default:
			t.Errorf("unexpected line %+v", e)
		}
	}
	if tries > 50 || tries+counted != flood || others != 3 {
		t.Errorf("%d lines and %d counted of %d, and %d other lines", tries, counted, flood, others)
	}
}
