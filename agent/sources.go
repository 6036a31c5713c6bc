package agent

import (
	"context"
	"fmt"
	"os"

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
	instructions, _ := bpf.Disassemble(program) // the VM refuses what this cannot name
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		return nil, fmt.Errorf("filter_program is for the kernel: %w; make one for files by tcpdump -ddd -y LINKTYPE", err)
	}
	return func(_ uint32, data []byte) bool {
		n, err := vm.Run(data)
		return err == nil && n > 0
	}, nil
}

// Try looks for what would fail only when the capture runs: whether its file
// is there, and whether its filter compiles.
func (c *CaptureConfig) Try(ctx context.Context) error {
	if c.File != "" {
		if _, err := os.Stat(c.File); err != nil {
			return fmt.Errorf("file: %w", err)
		}
	}
	if _, err := c.program(); err != nil {
		return err
	}
	return c.tryFilter(ctx)
}

// tryFilter compiles the filter, for any of the link types that the capture
// might have: what it will have is not known before it runs.
func (c *CaptureConfig) tryFilter(ctx context.Context) error {
	var refused error
	for _, linkType := range []pcap.LinkType{pcap.LinkEthernet, pcap.LinkRaw, pcap.LinkRadiotap, pcap.LinkSLL2} {
		var err error
		if c.Interface != "" {
			_, err = capture.Compile(ctx, c.Filter, c.Interface, linkType, uint32(c.Snaplen))
		} else {
			_, err = capture.CompileVM(ctx, c.Filter, linkType, uint32(c.Snaplen))
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if refused == nil {
			refused = err
		}
	}
	return refused
}
