//go:build unix

package capture

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"poip/internal/poiptest"
)

// blockingPipe is a pipe as a shell makes it: its ends know no deadlines.
func blockingPipe(t *testing.T) (io.Reader, io.WriteCloser) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	in := os.NewFile(uintptr(fds[0]), "in")
	t.Cleanup(func() { in.Close() })
	return in, os.NewFile(uintptr(fds[1]), "out")
}

// shell is a capture by a shell script, whose $1 is the path of a capture file.
func shell(t *testing.T, script string, content []byte) (*Command, *poiptest.Log) {
	t.Helper()
	log := new(poiptest.Log)
	return &Command{
		Args: []string{"sh", "-c", script, "sh", writeFile(t, content)},
		Log:  slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

func TestCommandThatEndsIsToBeTriedAnew(t *testing.T) {
	defer goleak.VerifyNone(t)
	whole := captureOf("one")
	for _, c := range []struct{ script, want string }{
		{`cat "$1"`, `command "sh" ended: exit status 0`},
		{`cat "$1"; echo bad luck >&2; exit 3`, `command "sh" ended: exit status 3; its last words: "bad luck"`},
		{`cat "$1"; exec >&-; exec sleep 0.1`, `command "sh" ended: exit status 0`},
		{`cat "$1"; tail -c 9 "$1"; exit 4`, `command "sh" ended: exit status 4; its output: offset 43: record header: cut off after 9 of 16 bytes`},
		{`cat "$1"; kill -9 $$`, `command "sh" ended: signal: killed`},
	} {
		cmd, _ := shell(t, c.script, whole)
		for range 2 { // it may be run again, and begins anew
			tape := newTape()
			err := cmd.Run(t.Context(), tape.open)
			if err == nil || errors.Is(err, ErrBroken) || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s:\ngot  %v\nwant %s", c.script, err, c.want)
			}
			expectTape(t, tape, "open", "packet  1.000000500 100 one", "flush")
		}
	}
}

func TestCommandThatFailsAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	cmd, log := shell(t, `echo "eth9: no such device" >&2; exit 1`, nil)
	err := cmd.Run(t.Context(), newTape().open)
	want := `command "sh" ended: exit status 1; its last words: "eth9: no such device"; ` +
		`its output: offset 0: no capture file: cut off after 0 of 4 bytes`
	if err == nil || err.Error() != want {
		t.Errorf("\ngot  %v\nwant %s", err, want)
	}
	if !strings.Contains(log.String(), `msg="command says" line="eth9: no such device"`) {
		t.Errorf("log: %s", log)
	}
}

func TestCommandThatWritesRubbishIsEnded(t *testing.T) {
	defer goleak.VerifyNone(t)
	cmd, _ := shell(t, `exec yes`, nil)
	err := cmd.Run(t.Context(), newTape().open)
	if err == nil || !strings.Contains(err.Error(), `its output: offset 0: not a pcap or pcapng file: begins with 79 0a 79 0a`) {
		t.Errorf("got %v", err)
	}
}

func TestCommandThatDoesNotExist(t *testing.T) {
	defer goleak.VerifyNone(t)
	err := (&Command{Args: []string{"no-such-program"}}).Run(t.Context(), nil)
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "install it") {
		t.Errorf("got %v", err)
	}
}

// TestCommandEndsWithItsGroup cancels a command that has started another one.
// A FIFO tells when the last of them is gone.
func TestCommandEndsWithItsGroup(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, script := range map[string]string{
		"obedient": `exec 3>"$1.fifo"; sleep 1000 & cat "$1"; wait`,
		"stubborn": `exec 3>"$1.fifo"; trap "" TERM; sleep 1000 & cat "$1"; wait`,
		"orphaned": `exec 3>"$1.fifo"; (sleep 1000 & ) & cat "$1"; exec sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			cmd, _ := shell(t, script, captureOf("one"))
			fifo := cmd.Args[4] + ".fifo"
			gone := watchFIFO(t, fifo)
			ctx, cancel := context.WithCancel(t.Context())
			tape := newTape()
			done := make(chan error)
			go func() { done <- cmd.Run(ctx, tape.open) }()
			tape.await("packet", 1)
			cancel()
			if err := <-done; err != context.Canceled {
				t.Errorf("got %v", err)
			}
			<-gone
		})
	}
}

// watchFIFO makes a FIFO and returns a channel that is closed when the last who
// had it open for writing is gone.
func watchFIFO(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		fifo, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer fifo.Close()
		_, _ = io.Copy(io.Discard, fifo)
	}()
	return gone
}

func TestCommandLeavesNobodyBehindWhenItEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	cmd, _ := shell(t, `exec 3>"$1.fifo"; sleep 1000 >/dev/null & cat "$1"`, captureOf("one"))
	gone := watchFIFO(t, cmd.Args[4]+".fifo")
	if err := cmd.Run(t.Context(), newTape().open); err == nil {
		t.Error("ended without an error")
	}
	<-gone
}

func TestCommandCannotFloodTheLog(t *testing.T) {
	defer goleak.VerifyNone(t)
	cmd, log := shell(t, `printf 'a\033[31m\n\n%01000d\n' 0 >&2; seq 1000 >&2; cat "$1"`, captureOf("one"))
	if err := cmd.Run(t.Context(), newTape().open); !strings.Contains(err.Error(), `its last words: "1000"`) {
		t.Errorf("got %v", err)
	}
	text := log.String()
	if n := strings.Count(text, "command says\""); n != maxLines {
		t.Errorf("%d lines in the log, want %d", n, maxLines)
	}
	for _, want := range []string{`line="a\x1b[31m"`, "line=" + strings.Repeat("0", maxLine) + "\n", "lines_omitted=952"} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %s", want)
		}
	}
}

func TestFileDoesNotWaitForAFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	err := (&File{Path: path}).Run(t.Context(), newTape().open)
	if !errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("got %v", err)
	}
}
