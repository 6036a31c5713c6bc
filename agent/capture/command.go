package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Patience with a command, each in its turn.
const (
	exitTime      = time.Second     // to exit, once it has ended its output
	terminateTime = 2 * time.Second // to exit when it was asked to
	killTime      = time.Second     // to be gone, once it was killed
	stderrTime    = time.Second     // for its stderr to end, once it has exited
)

// Command reads what a program writes to its standard output: a capture file
// that never ends, as from tcpdump -U -w -. What it says on standard error goes
// to Log, line by line. It is run without a shell, and in a process group of its
// own, all of which is gone when Run returns.
//
// A command is not expected to end. When it does, Run returns an error that says
// how, and it may be run anew.
//
// The fields are set before Run.
type Command struct {
	Args []string // the program and its arguments
	Log  *slog.Logger
	Take
}

// Run implements Source.
func (c *Command) Run(ctx context.Context, open func(Info) Sink) error {
	p, err := c.start()
	if err != nil {
		return err
	}
	// Where its output knows no deadlines it ends with the command.
	stop := context.AfterFunc(ctx, func() {
		p.terminate()
		_ = p.stdout.SetReadDeadline(longAgo)
	})
	carry := feed{take: c.Take, open: open}
	err = carry.run(ctx, waiting{p.stdout, carry.flush})
	stop()
	end := p.end(err == nil || errors.Is(err, io.ErrUnexpectedEOF))
	switch {
	case ctx.Err() != nil:
		if !p.isGone() {
			c.Log.Warn("command goes on for a while", "error", end)
		}
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w; its output: %w", end, err)
	}
	return end
}

// process is a command that runs.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdout  *os.File
	stderr  *os.File
	exited  chan struct{} // closed when it has been waited for
	err     error         // how it exited; set before that
	words   *echo
	waiters sync.WaitGroup
}

func (c *Command) start() (*process, error) {
	// #nosec G204 -- the operator's own command, without a shell
	p := &process{name: c.Args[0], cmd: exec.Command(c.Args[0], c.Args[1:]...), exited: make(chan struct{})}
	p.words = &echo{log: c.Log}
	ownGroup(p.cmd)
	var err error
	var out, said *os.File // the command's ends
	if p.stdout, out, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("start command %q: %w", p.name, err)
	}
	defer out.Close()
	if p.stderr, said, err = os.Pipe(); err != nil {
		p.stdout.Close()
		return nil, fmt.Errorf("start command %q: %w", p.name, err)
	}
	defer said.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, said
	if err := p.cmd.Start(); err != nil {
		p.stdout.Close()
		p.stderr.Close()
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%w: install it, or say where it is", err)
		}
		return nil, fmt.Errorf("start command: %w", err)
	}
	p.waiters.Go(func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	})
	p.waiters.Go(func() { p.words.read(p.stderr) })
	return p, nil
}

// terminate asks the group to exit.
func (p *process) terminate() { signalGroup(p.cmd.Process, false) }

// end makes sure that nothing of the command is left, and returns how it ended.
// Where it is expected to exit by itself, it has some time to do so.
func (p *process) end(expected bool) error {
	if !expected || !p.exits(exitTime) {
		p.terminate()
		p.exits(terminateTime)
	}
	signalGroup(p.cmd.Process, true)
	gone := p.exits(killTime)
	p.stdout.Close()
	if !gone {
		return p.abandon()
	}
	// Somebody who has left the group may hold on to stderr.
	_ = p.stderr.SetReadDeadline(time.Now().Add(stderrTime))
	p.waiters.Wait()
	p.stderr.Close()

	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if last := p.words.last; last != "" {
		return fmt.Errorf("command %q ended: %s; its last words: %q", p.name, how, last)
	}
	return fmt.Errorf("command %q ended: %s", p.name, how)
}

// abandon leaves a command alone that we are not permitted to end, as tcpdump
// once it has become another user. With nobody to read its output it ends when
// it writes again; the goroutines that wait for it do so, too.
func (p *process) abandon() error {
	return fmt.Errorf("command %q, process %d, has become another user's and cannot be stopped: it ends with its next packet; tcpdump stays who it is with -Z root",
		p.name, p.cmd.Process.Pid)
}

func (p *process) isGone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// exits tells whether the command has exited within d.
func (p *process) exits(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-t.C:
		return false
	}
}
