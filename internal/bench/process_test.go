//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func startShell(t *testing.T, script string) *process {
	t.Helper()
	p, err := startProcess(t.Context(), "shell", nil, nil, nil, "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(unix.SIGKILL) })
	return p
}

// An interrupt from a terminal goes to the whole process group. The relay would
// end in order before the bench does, and its readers with it.
func TestAnInterruptOfTheBenchSparesTheRoute(t *testing.T) {
	p := startShell(t, "read line")
	group, err := unix.Getpgid(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if group == unix.Getpgrp() {
		t.Error("the process is of our own group")
	}
}

func TestAReaderThatEndsTooEarlySaysHow(t *testing.T) {
	for script, want := range map[string]string{
		"echo no route >&2; exit 3": "(exit status 3) before it was told to stop\nno route",
		"echo {}":                   "(exit status 0) before it was told to stop",
		"kill -9 $$":                "(signal: killed) before it was told to stop",
	} {
		p := startShell(t, script)
		select {
		case <-p.exited:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: still runs", script)
		}
		if _, err := stopAndTally(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
}

func TestWhatTheKernelSaysOfAProcess(t *testing.T) {
	p := startShell(t, "echo ready; read line; cat; exit")
	if _, err := p.expect("ready", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if n := p.kernelSays("io", "rchar:"); n <= 0 { // it has read its libraries at least
		t.Errorf("%d bytes read", n)
	}
	if n := p.kernelSays("io", "read_bytes:"); n != p.fromDisk() || n < 0 {
		t.Errorf("%d bytes from disk, or %d", n, p.fromDisk())
	}
	if n := p.kernelSays("status", "no such key"); n != 0 {
		t.Errorf("%d of what is not there", n)
	}
}

func TestCPUOfAProcessIsItsOwn(t *testing.T) {
	p := startShell(t, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo busy; read line")
	if _, err := p.expect("busy", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	alive := p.cpu()
	if alive <= 0 || p.peak() <= 0 {
		t.Errorf("CPU %v, peak %d of a busy process", alive, p.peak())
	}
	if err := p.say(""); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if dead := p.cpu(); dead < alive-20*time.Millisecond || dead > alive+time.Second {
		t.Errorf("CPU of the dead process %v, alive it was %v", dead, alive)
	}
}
