package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"poip/internal/poiptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func open(t *testing.T, path string, o Options) *Log {
	t.Helper()
	l, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// entries reads a log. Each of its lines is an entry, unless torn is allowed.
func entries(t *testing.T, path string, torn int) (out []Entry) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.SplitAfter(string(text), "\n") {
		var e Entry
		switch err := json.Unmarshal([]byte(line), &e); {
		case line == "":
		case err == nil:
			out = append(out, e)
		default:
			if torn--; torn < 0 {
				t.Errorf("line %q: %v", line, err)
			}
		}
	}
	return out
}

func TestLinesAreAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit", "audit.jsonl")
	begin := time.Now()
	for i := range 3 {
		l := open(t, path, Options{})
		l.Write(Entry{Event: ReadBegun, Analyst: fmt.Sprint(i), Streams: []string{"a/b"}})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Write(Entry{Event: ReadEnded}) // too late, and no panic
	}
	if err := Append(path, Entry{Event: Revoked, Sensor: "branch-7"}); err != nil {
		t.Fatal(err)
	}
	got := entries(t, path, 0)
	if len(got) != 4 || got[2].Analyst != "2" || got[3].Event != Revoked || got[0].Time.Before(begin.Add(-time.Second)) {
		t.Errorf("%+v", got)
	}
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestANilLogDropsAll(t *testing.T) {
	var l *Log
	l.Write(Entry{})
	l.Refuse("x", Entry{})
	if l.Close() != nil || l.Path() != "" || l.Failures() != 0 {
		t.Error("it does something")
	}
}

// TestHostileNames: whatever a peer calls itself is one line of printable
// ASCII, and comes out as it went in. Without the escaping in encode, DEL, C1
// controls and overrides of direction are in the file.
func TestHostileNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "audit.jsonl")
	l := open(t, path, Options{})
	corpus := []string{
		"\x1b[31mroot\x1b[0m", "a\nb", "a\r\nevent", `","event":"relay.started","x":"`, "<script>alert(1)</script>", "\x00", "\x7f",
		"\u009b31m", "\u202egnp.exe", "\u2028", "\U0001f4a9", "'; DROP TABLE", "../../etc/passwd", "%s%n", "`id`", "$(id)", "-rf",
	}
	for _, name := range corpus {
		l.Write(Entry{Event: ReadRefused, Analyst: name, Remote: name, Reason: name, Streams: []string{name}})
	}
	l.Write(Entry{Event: ReadRefused, Reason: "\xff\xfe" + strings.Repeat("x", 1<<20)})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range text {
		if c != '\n' && (c < ' ' || c > '~') || c == '<' {
			t.Fatalf("byte %#x at %d", c, i)
		}
	}
	got := entries(t, path, 0)
	if len(got) != len(corpus)+1 {
		t.Fatalf("%d lines for %d names", len(got), len(corpus)+1)
	}
	for i, name := range corpus {
		if got[i].Analyst != name || got[i].Reason != name || got[i].Streams[0] != name {
			t.Errorf("%q became %q", name, got[i].Analyst)
		}
	}
	if last := got[len(corpus)].Reason; len(last) > maxText+16 {
		t.Errorf("a reason of %d bytes", len(last))
	}
}

func TestRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	path := filepath.Join(dir, "audit.jsonl")
	l := open(t, path, Options{Size: 1000, Keep: 2})
	const lines = 200
	for i := range lines {
		l.Write(Entry{Event: ReadBegun, Count: uint64(i + 1)})
		if i%10 == 9 { // else they are written all at once
			eventually(t, "the queue to be empty", func() bool { return len(l.queue) == 0 })
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var all []Entry
	for _, name := range []string{"audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"} {
		all = append(all, entries(t, filepath.Join(dir, name), 0)...)
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("more files are kept than should")
	}
	if len(all) == 0 || len(all) == lines || all[len(all)-1].Count != lines {
		t.Fatalf("%d lines are left of %d", len(all), lines)
	}
	for i, e := range all {
		if e.Count != uint64(lines-len(all)+1+i) {
			t.Fatalf("line %d is number %d", i, e.Count)
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestATornLineHurtsNoOther: a crash in the middle of a line costs that line.
func TestATornLineHurtsNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "audit.jsonl")
	l := open(t, path, Options{})
	l.Write(Entry{Event: RelayStarted})
	l.Write(Entry{Event: ReadBegun})
	l.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, Options{})
	l.Write(Entry{Event: RelayStopped})
	l.Close()
	if got := entries(t, path, 1); len(got) != 2 || got[1].Event != RelayStopped {
		t.Errorf("%+v", got)
	}
}

// TestAFailureIsLoudAndLosesNothing: a full disk. The lines wait, Write does
// not, and they are there when there is room again.
func TestAFailureIsLoudAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "audit.jsonl")
	complaints := new(poiptest.Log)
	o := Options{Size: 1 << 20, Keep: 1, Log: slog.New(slog.NewTextHandler(complaints, nil))}
	w, err := newWriter(path, o)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.file.Close()
	w.file = full
	// The folder is gone as well: it cannot be opened again.
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	l := &Log{opts: o, log: o.Log, path: path, stop: stop, done: make(chan struct{}), queue: make(chan Entry, queueLen)}
	go l.run(ctx, w)
	defer l.Close()

	begin := time.Now()
	const more = 100
	for range queueLen + more {
		l.Write(Entry{Event: ReadBegun})
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("Write took %s: it waits for the disk", took)
	}
	eventually(t, "a complaint", func() bool {
		return l.Failures() > 1 && strings.Contains(complaints.String(), "cannot write the audit log")
	})
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the queue to be empty", func() bool { return len(l.queue) == 0 })
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	var written, lost uint64
	for _, e := range entries(t, path, 0) {
		switch e.Event {
		case ReadBegun:
			written++
		case Lost:
			lost += e.Count
		}
	}
	if written+lost != queueLen+more || written < queueLen {
		t.Errorf("%d written, %d lost, of %d", written, lost, queueLen+more)
	}
	if lost > 0 && !strings.Contains(complaints.String(), "lines of the audit log are lost") {
		t.Error("lines are lost in silence")
	}
}

// TestScannersCannotFillTheDisk: without the allowance in Refuse there is a
// line for each.
func TestScannersCannotFillTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "audit.jsonl")
	l := open(t, path, Options{})
	const tries = 100000
	for i := range tries {
		l.Refuse("handshake", Entry{Event: ReadRefused, Listener: "p", Remote: fmt.Sprintf("192.0.2.1:%d", i), Reason: fmt.Sprint(i)})
	}
	l.Refuse("grant", Entry{Event: ReadRefused, Listener: "p", Analyst: "alice"}) // is not drowned
	l.Close()
	var lines, counted uint64
	alice := false
	for _, e := range entries(t, path, 0) {
		if alice = alice || e.Analyst == "alice"; e.Analyst == "alice" {
			continue
		}
		lines++
		counted += e.Count
		if e.Event == ReadRefused {
			counted++
		}
	}
	if lines > 1000 || counted != tries || !alice {
		t.Errorf("%d lines say %d refusals; alice's is there: %t", lines, counted, alice)
	}
}

// TestKindsAreBounded: names of which there are many take no more memory.
func TestKindsAreBounded(t *testing.T) {
	var l limiter
	now := time.Now()
	for i := range 10 * maxKinds {
		l.allow(kind{analyst: fmt.Sprint(i)}, now)
	}
	if n := len(l.kinds); n > maxKinds {
		t.Errorf("%d kinds", n)
	}
	l.allow(kind{analyst: "later"}, now.Add(time.Hour))
	if n := len(l.kinds); n > 2 {
		t.Errorf("%d kinds are remembered an hour later", n)
	}
}

func TestALogThatOthersReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.TempDir(), Options{}); err == nil {
		t.Error("a folder was opened")
	}
}
