package poiptest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that should happen soon, on a
// machine that may be busy with other things, unless a test has less.
const patience = 30 * time.Second

// A LogLine is one line of a program's log in JSON.
type LogLine map[string]any

// A Process is a program of ours that runs for a test, which may kill, stop and
// read it. It is dead when the test ends, and a panic in it is a failure.
type Process struct {
	Name     string
	Cmd      *exec.Cmd
	Stdin    io.WriteCloser
	Patience time.Duration // of every wait

	tb   testing.TB
	done chan struct{} // closed when it has ended

	mu    sync.Mutex
	lines []LogLine     // guarded by mu
	raw   bytes.Buffer  // guarded by mu: the same, and what is not JSON
	news  chan struct{} // guarded by mu: closed and replaced at each line
}

// StartProcess runs a program whose log goes to its standard error.
func StartProcess(tb testing.TB, name string, cmd *exec.Cmd) *Process {
	tb.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	stderr, said, err := os.Pipe()
	must(tb, err)
	defer said.Close()
	cmd.Stderr = said
	stdin, err := cmd.StdinPipe()
	must(tb, err)
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", name, err)
	}
	p := &Process{Name: name, Cmd: cmd, Stdin: stdin, Patience: patience, tb: tb, done: make(chan struct{}), news: make(chan struct{})}
	read := make(chan struct{})
	go func() { defer close(read); p.collect(stderr) }()
	go func() {
		defer close(p.done)
		cmd.Wait() // ProcessState says how
		// A child of its own may hold on to stderr.
		stderr.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		stderr.Close()
	}()
	tb.Cleanup(p.cleanup)
	return p
}

func (p *Process) collect(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := LogLine{}
		json.Unmarshal(lines.Bytes(), &line)
		p.mu.Lock()
		p.raw.Write(lines.Bytes())
		p.raw.WriteByte('\n')
		p.lines = append(p.lines, line)
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *Process) cleanup() {
	p.Cmd.Process.Signal(syscall.SIGCONT)
	p.Cmd.Process.Kill()
	<-p.done
	log := p.Log()
	for _, bad := range []string{"panic:", "fatal error:", "WARNING: DATA RACE"} {
		if strings.Contains(log, bad) {
			p.tb.Errorf("%s: its log has %q", p.Name, bad)
		}
	}
	if p.tb.Failed() {
		p.tb.Logf("---- log of %s, pid %d:\n%s", p.Name, p.Cmd.Process.Pid, tail(log, 4000))
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// Log is everything that it has said so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.String()
}

// Lines are those of the log so far.
func (p *Process) Lines() []LogLine {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines
}

// WaitLog waits for a line of the log that suits.
func (p *Process) WaitLog(what string, suits func(LogLine) bool) LogLine {
	p.tb.Helper()
	deadline := time.After(p.Patience)
	for at := 0; ; {
		p.mu.Lock()
		news, lines := p.news, p.lines
		p.mu.Unlock()
		for ; at < len(lines); at++ {
			if suits(lines[at]) {
				return lines[at]
			}
		}
		select {
		case <-news:
		case <-p.done:
			p.tb.Fatalf("%s ended before it logged: %s", p.Name, what)
		case <-deadline:
			p.tb.Fatalf("%s did not log: %s", p.Name, what)
		}
	}
}

// WaitMessage waits for a line with that message.
func (p *Process) WaitMessage(message string) LogLine {
	p.tb.Helper()
	return p.WaitLog(message, func(l LogLine) bool { return l["msg"] == message })
}

// Count is how many lines of the log suit.
func (p *Process) Count(suits func(LogLine) bool) (n int) {
	for _, l := range p.Lines() {
		if suits(l) {
			n++
		}
	}
	return n
}

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says whether it has.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.tb.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.tb.Fatalf("signal %s: %v", p.Name, err)
	}
}

// Kill is kill -9, and waits until it is done.
func (p *Process) Kill() {
	p.tb.Helper()
	p.Signal(syscall.SIGKILL)
	p.Wait()
}

// Wait waits for the end and returns the exit code.
func (p *Process) Wait() int {
	p.tb.Helper()
	return p.WaitFor(p.Patience)
}

// WaitFor is Wait where it may take no longer than that.
func (p *Process) WaitFor(most time.Duration) int {
	p.tb.Helper()
	select {
	case <-p.done:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(most):
		p.tb.Fatalf("%s did not end within %v", p.Name, most)
		return -1
	}
}

// Stop is SIGTERM, and the good end that has to follow.
func (p *Process) Stop() {
	p.tb.Helper()
	p.StopWithin(p.Patience)
}

// StopWithin is Stop where it may take no longer than that.
func (p *Process) StopWithin(most time.Duration) {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	if code := p.WaitFor(most); code != 0 {
		p.tb.Errorf("%s ended with code %d at SIGTERM", p.Name, code)
	}
}
