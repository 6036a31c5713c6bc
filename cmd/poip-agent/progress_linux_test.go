package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a new terminal and the end at which it is looked at.
func terminal(t *testing.T, size unix.Winsize) (tty, screen *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	return tty, screen
}

// TestTerminalShowsBarsAndTheLogToItsLastLine: what is said just before the end
// is what matters most.
func TestTerminalShowsBarsAndTheLogToItsLastLine(t *testing.T) {
	for _, c := range []struct {
		read int64 // bytes of a file
		size unix.Winsize
	}{
		{0, unix.Winsize{Row: 24, Col: 80}},
		{50, unix.Winsize{Row: 24, Col: 80}},
		{100, unix.Winsize{Row: 24, Col: 80}},
		{100, unix.Winsize{}}, // as script(1) and serial lines have it
	} {
		read := c.read
		tty, screen := terminal(t, c.size)
		p := newProgress(tty)
		log := p.log(tty)
		fmt.Fprintln(log, "first line")
		if read > 0 {
			p.show("trace", read, 100)
		}
		fmt.Fprintln(log, "last line")
		p.end()
		fmt.Fprintln(log, "afterwards")

		seen := bufio.NewReader(screen)
		var all string
		for !strings.Contains(all, "afterwards") {
			line, err := seen.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			all += line
		}
		if !strings.Contains(all, "first line") || !strings.Contains(all, "last line") {
			t.Errorf("got %q", all)
		}
		if bar := fmt.Sprint(read, " %"); read > 0 && !strings.Contains(all, bar) {
			t.Errorf("no %q in %q", bar, all)
		}
	}
}

// TestDeviceThatIsNoTerminalIsWrittenTo: the log must not gather in memory.
func TestDeviceThatIsNoTerminalIsWrittenTo(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p := newProgress(full)
	defer p.end()
	for range 3 { // the first goes out with the second at the latest
		if _, err = p.log(full).Write([]byte("x\n")); err != nil {
			return
		}
	}
	t.Error("nothing was written")
}
