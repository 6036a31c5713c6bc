//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"regexp"
	"testing"
)

func TestAnInterruptedContenderHasNotFailed(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	b := &bench{ctx: ctx, o: options{rounds: 2, only: regexp.MustCompile("")}, log: io.Discard, tmp: t.TempDir()}
	runs := 0
	r := b.measure(scenario{contenders: []contender{
		{name: "whole", run: func(*stage) (sample, error) { return sample{rate: 1}, nil }},
		{name: "weak", run: func(*stage) (sample, error) { return nil, errors.New("fell over") }},
		{name: "interrupted", run: func(*stage) (sample, error) {
			runs++
			interrupt()
			return nil, errors.New("the reader ended")
		}},
	}})
	if len(r.Medians) != 1 || r.Medians["whole"][rate] != 1 {
		t.Errorf("medians %v, want those of the first round", r.Medians)
	}
	if len(r.Failed) != 1 || r.Failed["weak"] != "fell over" || runs != 1 {
		t.Errorf("failed: %v, after %d runs", r.Failed, runs)
	}
}
