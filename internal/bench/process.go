//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that takes part in a measurement. It belongs to the
// goroutine that runs the scenario.
type process struct {
	name   string // what it does in the route: "agent", "relay", "reader", …
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string // of standard output; closed at its end
	stderr *tail
	exited chan struct{}
	err    error         // of Wait; valid once exited is closed
	spent  time.Duration // CPU before mark
}

// startProcess starts argv. Its standard input is a pipe unless stdin is given;
// its standard output is read line by line unless stdout is given. It is killed
// when ctx ends.
func startProcess(ctx context.Context, name string, stdin, stdout *os.File, env []string, argv ...string) (*process, error) {
	p := &process{name: name, lines: make(chan string, 64), stderr: &tail{}, exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // an interrupt is for the bench alone, not for one end of a route before the other
	}
	out, err := p.connect(stdin, stdout)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.attend(out)
	return p, nil
}

func (p *process) connect(stdin, stdout *os.File) (out io.Reader, err error) {
	if stdin != nil {
		p.cmd.Stdin = stdin
	} else if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if stdout != nil {
		p.cmd.Stdout = stdout
		return strings.NewReader(""), nil
	}
	return p.cmd.StdoutPipe()
}

// attend reads what the process says until it ends. What nobody takes is
// dropped, so that the process never waits for us.
func (p *process) attend(out io.Reader) {
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<24) // iperf3's JSON comes pretty-printed, but who knows
	for scanner.Scan() {
		select {
		case p.lines <- scanner.Text():
		default:
		}
	}
	close(p.lines)
	p.err = p.cmd.Wait()
	close(p.exited)
}

// say writes a line to the process.
func (p *process) say(line string) error {
	_, err := io.WriteString(p.stdin, line+"\n")
	return err
}

// expect waits for a line that begins with prefix, and returns the rest of it.
func (p *process) expect(prefix string, limit time.Duration) (string, error) {
	timeout := time.After(limit)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				return "", p.failure(fmt.Errorf("ended without saying %q", prefix))
			}
			if rest, found := strings.CutPrefix(line, prefix); found {
				return strings.TrimSpace(rest), nil
			}
		case <-timeout:
			return "", p.failure(fmt.Errorf("did not say %q within %v", prefix, limit))
		}
	}
}

// wait waits until the process ends by itself.
func (p *process) wait(limit time.Duration) error {
	select {
	case <-p.exited:
		if p.err != nil {
			return p.failure(p.err)
		}
		return nil
	case <-time.After(limit):
		return p.failure(fmt.Errorf("still runs after %v", limit))
	}
}

func (p *process) failure(err error) error {
	return fmt.Errorf("%s: %w\n%s", p.name, err, p.stderr)
}

// stop ends the process with a signal; it is killed when that does not help.
func (p *process) stop(signal os.Signal) {
	p.cmd.Process.Signal(signal)
	select {
	case <-p.exited:
	case <-time.After(8 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// cpu is the CPU time, user and system, of all threads until now.
func (p *process) cpu() time.Duration {
	// CPUCLOCK_SCHED of another process: see clock_getcpuclockid(3).
	clock := int32(^p.cmd.Process.Pid)<<3 | 2
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err == nil {
		return time.Duration(ts.Nano())
	}
	<-p.exited
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// peak is the largest resident size until now, in bytes. The process must
// still run: the rusage of a dead one counts its parent's size as well.
func (p *process) peak() int64 { return p.kernelSays("status", "VmHWM:") << 10 }

// fromDisk is how many bytes the kernel has fetched from disks until now, for
// the reads of the process or ahead of them. The process must still run.
func (p *process) fromDisk() int64 { return p.kernelSays("io", "read_bytes:") }

// kernelSays is a figure in one of the process's files in /proc; 0 where there
// is none.
func (p *process) kernelSays(file, key string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, key); found {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// tail keeps the last few KiB of what a process says on standard error.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := append(t.text, p...)
	t.text = text[max(0, len(text)-4096):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}
