package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"poip/agent/capture"
)

// execute runs the command and returns its error.
func execute(args ...string) error {
	root := newRoot()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetOut(io.Discard)
	root.SetArgs(args)
	return root.Execute()
}

// TestFlagsAreNotLeftOutSilently: a filter beside a configuration file would
// capture more than was wanted.
func TestFlagsAreNotLeftOutSilently(t *testing.T) {
	for _, flag := range []string{
		"--filter=port 22", "--filter-program=1", "--snaplen=96", "--direction=in", "--promiscuous=false", "--name=x",
		"--latency=low", "--pace=original", "--relay-name=x", "--memory=1MiB", "--congestion=cubic",
		"--user=poip", "--confine=off", "--spool-key=x",
	} {
		if err := execute("check", "--config", "unused", flag); err == nil || !strings.Contains(err.Error(), "none of the others can be") {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}

func TestFlagsMakeAConfiguration(t *testing.T) {
	var s settings
	s.flags(&cobra.Command{})
	s.relays, s.config.Data, s.one.Interface = []string{"tls://relay"}, "d", "eth0"
	s.memory, s.promiscuous = "2MiB", false
	cfg, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.Captures[0]; cfg.Memory != 2<<20 || cfg.Congestion != "auto" || c.Promiscuous == nil || *c.Promiscuous {
		t.Errorf("got %+v", cfg)
	}
	s.memory = "2"
	if _, err := s.load(); err == nil || !strings.Contains(err.Error(), "--memory") {
		t.Errorf("got %v", err)
	}
}

func TestNamesOfInterfacesDoNothingToTheTerminal(t *testing.T) {
	var out bytes.Buffer
	if err := printTable(&out, []capture.InterfaceState{{Name: "eth0"}, {Name: "a\x1b[31mX"}}, nil); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, `"a\x1b[31mX"`) || !strings.Contains(text, "\neth0 ") {
		t.Errorf("got %q", text)
	}
}
