package agent

import (
	"context"
	"fmt"
	"os/exec"

	"golang.org/x/net/bpf"

	"poip/agent/capture"
	"poip/internal/pcap"
)

// source makes the Source that a checked configuration describes.
func (a *Agent) source(c CaptureConfig) (capture.Source, error) {
	program, err := c.program()
	if err != nil {
		return nil, err
	}
	log := a.log.With("capture", c.Name)
	take := capture.Take{Filter: c.matcher(program), Snaplen: uint32(c.Snaplen)}
	switch {
	case c.Interface != "":
		return &capture.Interface{
			Name: c.Interface, Filter: c.Filter, Program: program, Snaplen: uint32(c.Snaplen),
			Promiscuous: c.promiscuous(), Direction: c.Direction, Latency: c.Latency,
			Exclude: &a.exclusions, Log: log,
		}, nil
	case c.File != "":
		return &capture.File{Path: c.File, Pace: capture.Pace(c.Pace), Take: take, Progress: a.progress(c.Name)}, nil
	case c.Stdin:
		return &capture.Stdin{R: a.Stdin, Take: take}, nil
	}
	return &capture.Command{Args: c.Command, Log: log, Take: take}, nil
}

func (a *Agent) progress(name string) func(done, total int64) {
	if a.Progress == nil {
		return nil
	}
	return func(done, total int64) { a.Progress(name, done, total) }
}

// program is the filter program, or nil if there is none.
func (c *CaptureConfig) program() ([]bpf.RawInstruction, error) {
	if c.FilterProgram == "" {
		return nil, nil
	}
	program, err := capture.ParseProgram(c.FilterProgram)
	if err != nil {
		return nil, fmt.Errorf("filter_program: %w", err)
	}
	return program, nil
}

// matcher makes the filters of packets that come from elsewhere.
func (c *CaptureConfig) matcher(program []bpf.RawInstruction) func(context.Context, pcap.LinkType, uint32) (func(uint32, []byte) bool, error) {
	switch {
	case program != nil:
		return func(context.Context, pcap.LinkType, uint32) (func(uint32, []byte) bool, error) {
			return programMatcher(program)
		}
	case c.Filter != "":
		return func(ctx context.Context, linkType pcap.LinkType, snaplen uint32) (func(uint32, []byte) bool, error) {
			return capture.CompileVM(ctx, c.Filter, linkType, snaplen)
		}
	}
	return nil
}

// programMatcher runs a program on captured packets.
func programMatcher(program []bpf.RawInstruction) (func(uint32, []byte) bool, error) {
	match, err := capture.NewMatcher(program)
	if err != nil {
		return nil, fmt.Errorf("filter_program is for the kernel: %w; make one for files by tcpdump -ddd -y LINKTYPE", err)
	}
	return match, nil
}

// Try looks for what would fail only when the capture runs: whether its file
// is there, its command can be found, and its filter compiles. It needs no
// permission.
func (c *CaptureConfig) Try(ctx context.Context) error {
	program, err := c.program()
	if err != nil {
		return err
	}
	switch {
	case c.Interface != "":
		i := capture.Interface{Name: c.Interface, Filter: c.Filter, Program: program, Snaplen: uint32(c.Snaplen)}
		return i.Check(ctx)
	case c.File != "":
		f := capture.File{Path: c.File, Take: capture.Take{Filter: c.matcher(program), Snaplen: uint32(c.Snaplen)}}
		return f.Check(ctx)
	case len(c.Command) > 0:
		if _, err := exec.LookPath(c.Command[0]); err != nil {
			return fmt.Errorf("command: %w", err)
		}
	}
	return c.tryMatcher(ctx, program)
}

// anyOf are link types that know, between them, the tests that libpcap has.
var anyOf = []pcap.LinkType{
	pcap.LinkEthernet, pcap.LinkRaw, pcap.LinkRadiotap, pcap.LinkSLL2,
	117, 123, 140, // PFLOG, ATM, MTP2
}

// tryMatcher compiles the filter for any link type: which one the capture will
// have is not known before it runs.
func (c *CaptureConfig) tryMatcher(ctx context.Context, program []bpf.RawInstruction) error {
	match := c.matcher(program)
	if match == nil {
		return nil
	}
	var refused error
	for _, linkType := range anyOf {
		_, err := match(ctx, linkType, uint32(c.Snaplen))
		if err == nil || ctx.Err() != nil {
			return err
		}
		if refused == nil {
			refused = err
		}
	}
	return refused
}
