//go:build unix

package capture

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestStdinSendsBeforeItWaits(t *testing.T) {
	defer goleak.VerifyNone(t)
	in, out := io.Pipe()
	tape := newTape()
	done := make(chan error)
	go func() { done <- (&Stdin{R: in}).Run(t.Context(), tape.open) }()

	content := captureOf("one", "two", "three")
	write := func(b []byte) {
		t.Helper()
		if _, err := out.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	write(content[:24])
	tape.await("open", 1) // before any packet
	write(content[24:43])
	tape.await("flush", 2)
	write(content[43:70]) // and a part of the third
	tape.await("flush", 3)
	write(content[70:])
	tape.await("flush", 4)
	out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	expectTape(t, tape, "open", "flush", "packet  1.000000500 100 one", "flush",
		"packet  2.000000500 100 two", "flush", "packet  3.000000500 100 three", "flush")
}

func TestStdinThatIsCutOff(t *testing.T) {
	in, out := io.Pipe()
	go func() {
		_, _ = out.Write(captureOf("one", "two")[:50])
		out.Close()
	}()
	tape := newTape()
	err := (&Stdin{R: in}).Run(t.Context(), tape.open)
	want := "read standard input: offset 43: record header: cut off after 7 of 16 bytes"
	if !errors.Is(err, ErrBroken) || err.Error() != want {
		t.Errorf("\ngot  %v\nwant %s", err, want)
	}
	expectTape(t, tape, "open", "packet  1.000000500 100 one", "flush")
}

// TestStdinEndsWhenCanceled cancels while it waits for each kind of input:
// one with deadlines, one that has none, as standard input mostly is, and one
// that can only be closed.
func TestStdinEndsWhenCanceled(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (io.Reader, io.WriteCloser){
		"pipe": func(t *testing.T) (io.Reader, io.WriteCloser) {
			in, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { in.Close() })
			return in, out
		},
		"blocking pipe": blockingPipe,
		"no file":       func(*testing.T) (io.Reader, io.WriteCloser) { return io.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			in, out := open(t)
			ctx, cancel := context.WithCancel(t.Context())
			tape := newTape()
			done := make(chan error)
			go func() { done <- (&Stdin{R: in}).Run(ctx, tape.open) }()
			if _, err := out.Write(captureOf("one")); err != nil {
				t.Fatal(err)
			}
			tape.await("packet", 1)
			cancel()
			if err := <-done; err != context.Canceled {
				t.Errorf("got %v", err)
			}
			out.Close()
			goleak.VerifyNone(t)
		})
	}
}

func TestStdinReadsABlockingPipeToItsEnd(t *testing.T) {
	defer goleak.VerifyNone(t)
	in, out := blockingPipe(t)
	go func() {
		_, _ = out.Write(captureOf("one"))
		out.Close()
	}()
	tape := newTape()
	if err := (&Stdin{R: in}).Run(t.Context(), tape.open); err != nil {
		t.Error(err)
	}
	expectTape(t, tape, "open", "packet  1.000000500 100 one", "flush")
}
