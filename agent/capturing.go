package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/exec"
	"time"

	"poip/agent/capture"
	"poip/auth"
	"poip/internal/wire"
)

// maxStreams bounds the streams of one capture. A pcapng file may have any
// number of interfaces, and each becomes a stream.
const maxStreams = 256

// steadyAfter is how long a capture has to run before a failure counts as the
// first one again.
const steadyAfter = time.Minute

// A capturing keeps one configured capture going: it runs the Source, gives it
// streams to fill, and runs it anew when it breaks off.
type capturing struct {
	config    CaptureConfig
	source    capture.Source
	memory    *memory
	condition *condition
	spool     *spoolConfig                                        // nil: no disk; set before run
	stream    func(*capturing, auth.CaptureName) (*stream, error) // makes one, and starts its uplink
	agent     string                                              // version
	log       *slog.Logger

	// Owned by run.
	streams map[string]*stream // by capture.Info.Sub; those of spools from before
	begun   bool               // the Source has announced something
	stopped bool               // before its end
}

// run returns when the capture has ended for good, has failed beyond hope, or
// ctx has ended.
func (c *capturing) run(ctx context.Context) error {
	defer c.endStreams()
	defer c.condition.set(CaptureEnded, nil)
	wait := backoff{least: time.Second, most: 30 * time.Second}
	for {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			c.stopped = err != nil
			return nil
		}
		if err == nil || c.config.finite() || c.hopeless(err) {
			return err
		}
		if time.Since(began) > steadyAfter {
			wait.reset()
		}
		pause := wait.step()
		c.condition.set(CaptureBroken, err)
		c.log.Warn("capture broke off", "error", err, "retry_in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// hopeless says that trying anew would meet the same error: the capture has
// never begun, because a filter is wrong, a permission or a program is missing.
// One that has begun may do so again; what a command writes must not stop the
// agent's other captures. (An interface that is not there is waited for,
// without an error.)
func (c *capturing) hopeless(err error) bool {
	return !c.begun && (c.config.Interface != "" || errors.Is(err, capture.ErrBroken) ||
		errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound))
}

// once runs the Source once and closes the epochs that it opened.
func (c *capturing) once(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	err := c.source.Run(ctx, func(info capture.Info) capture.Sink {
		sink, err := c.open(info, parent.Done())
		if err != nil {
			cancel(err)
			return nowhere{}
		}
		return sink
	})
	if cause := context.Cause(ctx); cause != nil && parent.Err() == nil {
		err = cause // of open
	}
	final := err == nil || parent.Err() == nil && c.config.finite()
	for _, s := range c.streams {
		if final || parent.Err() != nil {
			s.end(final)
		} else {
			s.breakOff()
		}
	}
	if err != nil {
		return fmt.Errorf("capture %s: %w", c.config.Name, err)
	}
	return nil
}

// open finds the stream that a Source announces, or makes it.
func (c *capturing) open(info capture.Info, stop <-chan struct{}) (capture.Sink, error) {
	c.begun = true
	c.condition.set(CaptureRunning, nil)
	s := c.streams[info.Sub]
	if s == nil {
		var err error
		if s, err = c.newStream(info.Sub); err != nil {
			return nil, err
		}
	}
	return s.begin(info, c.agent, stop), nil
}

func (c *capturing) newStream(sub string) (*stream, error) {
	if len(c.streams) == maxStreams {
		return nil, fmt.Errorf("it has more than %d interfaces, each of which is a stream: split it", maxStreams)
	}
	text := c.config.Name
	if sub != "" {
		text += "." + sub
	}
	name, err := auth.ParseCaptureName(text)
	if err != nil {
		return nil, err
	}
	s, err := c.stream(c, name)
	if err != nil {
		return nil, err
	}
	c.streams[sub] = s
	return s, nil
}

// undelivered is the error of what has gone nowhere, once all is over: of a
// file, which can be read again, whatever is not acknowledged or was not even
// read; of other captures, what no spool keeps.
func (c *capturing) undelivered() error {
	var left, lost uint64
	for _, s := range c.streams {
		n := s.status().Queued
		left += n
		if !s.kept() {
			lost += n
		}
	}
	switch {
	case c.config.File == "" && lost > 0:
		return fmt.Errorf("capture %s: %d packets are lost: no relay has acknowledged them, and no spool keeps them; give the agent a spool, for it to send them when it runs again", c.config.Name, lost)
	case c.config.File != "" && (left > 0 || c.stopped):
		return fmt.Errorf("capture %s: stopped before it was delivered; %d packets that were read are not acknowledged", c.config.Name, left)
	}
	return nil
}

// endStreams says that nothing more will come.
func (c *capturing) endStreams() {
	for _, s := range c.streams {
		s.queue.end()
	}
}

// nowhere is where a Source fills in what it has read until it notices that it
// is to stop.
type nowhere struct{}

func (nowhere) Packet(_, _, _ uint32, _ []byte) {}
func (nowhere) Lost(uint64, wire.Cause)         {}
func (nowhere) Empty()                          {}
func (nowhere) Flush()                          {}
