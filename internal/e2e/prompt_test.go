package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal makes a pseudo-terminal: what a person types into, and what a
// program has as its standard input.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// A person pastes the token at a prompt, and nothing of it is to be seen.
// Fails where it is read by anything but ReadPassword.
func TestATokenIsPastedUnseen(t *testing.T) {
	w := newWorld(t)
	r := w.startRelay(w.relayTOML(""))
	line := w.token(r, "tls", "branch-7")
	person, tty := terminal(t)
	cmd := exec.Command(program("poip-agent"), "enroll", "--data", w.path("branch-7"))
	cmd.Stdin = tty
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	eventually(t, "the prompt shows nothing of what is typed", func() bool {
		state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		return err == nil && state.Lflag&unix.ECHO == 0
	})
	if _, err := person.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("enroll: %v\n%s", err, out.String())
		}
	case <-time.After(patience):
		cmd.Process.Kill()
		t.Fatalf("enroll did not end\n%s", <-done)
	}
	if !strings.Contains(out.String(), "it is not shown") || !strings.Contains(out.String(), "this sensor is branch-7") {
		t.Errorf("enroll printed\n%s", out.String())
	}
	fd := int(person.Fd()) // asked for once: Fd makes it wait
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 4096)
	n, _ := unix.Read(fd, shown)
	if strings.Contains(string(shown[:max(n, 0)])+out.String(), secretOf(line)) {
		t.Errorf("the terminal shows the secret: %q", shown[:max(n, 0)])
	}
	if state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal is left without echo: %v", err)
	}
	r.stop()
}
