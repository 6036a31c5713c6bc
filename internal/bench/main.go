//go:build linux

// Command bench measures poip beside what people use instead and beside what
// the machine can do at all. It drives the programs in bin/ as a user would,
// in a network namespace of its own, with senders and readers that are the
// same for every contender. Contenders of a scenario take turns, round by
// round; what counts are ratios of medians within one run.
//
// docs/PERFORMANCE.md says how to read the tables, and what they said.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is the whole program: the bench itself, or one end of a measured route
// when its first argument is "end".
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "end" {
		return runEnd(ctx, args[1:], os.Stdin, stdout)
	}
	o, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.list {
		return list(o, stdout)
	}
	if !inNamespace() {
		return enterNamespace(ctx, args)
	}
	return measureAll(ctx, o, stdout, stderr)
}

// options are the command line, checked.
type options struct {
	pattern  *regexp.Regexp
	only     *regexp.Regexp // of contenders
	bin      string         // directory of poip-agent and poip-relay
	rounds   int
	short    bool
	list     bool
	json     string // file for the results; empty is none
	markdown string
	profile  string // directory for perf's files
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	pattern := flags.String("run", "", "run only scenarios whose name matches this regular expression")
	only := flags.String("only", "", "run only contenders whose name matches this regular expression")
	flags.StringVar(&o.bin, "bin", "bin", "directory of the programs that make build makes")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds of each scenario; 0 is 5, or 1 with -short")
	flags.BoolVar(&o.short, "short", false, "little data and one round: proves that it runs, measures badly")
	flags.BoolVar(&o.list, "list", false, "list the scenarios and stop")
	flags.StringVar(&o.json, "json", "", "write the results to this file as JSON")
	flags.StringVar(&o.markdown, "markdown", "", "write the tables into this Markdown document, between the marks")
	flags.StringVar(&o.profile, "profile", "", "have perf record every measured part into this directory; it costs, so the figures do not count")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, o.complete(*pattern, *only)
}

func (o *options) complete(pattern, only string) (err error) {
	if o.pattern, err = regexp.Compile(pattern); err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	if !slices.ContainsFunc(scenarios(o.short), func(s scenario) bool { return o.pattern.MatchString(s.name) }) {
		return fmt.Errorf("-run %q matches no scenario, see -list", pattern)
	}
	if o.rounds == 0 {
		o.rounds = 5
		if o.short {
			o.rounds = 1
		}
	}
	o.bin, err = filepath.Abs(o.bin)
	return err
}

func list(o options, stdout io.Writer) error {
	for _, s := range scenarios(o.short) {
		if o.pattern.MatchString(s.name) {
			fmt.Fprintf(stdout, "%-18s %s\n", s.name, s.about)
		}
	}
	return nil
}

// measureAll runs the chosen scenarios and prints each as soon as it is done.
func measureAll(ctx context.Context, o options, stdout, stderr io.Writer) error {
	b, err := newBench(ctx, o, stderr)
	if err != nil {
		return err
	}
	defer b.close()
	results := report{Machine: describeMachine()}
	fmt.Fprintln(stdout, results.Machine)
	for _, s := range scenarios(o.short) {
		if !o.pattern.MatchString(s.name) {
			continue
		}
		r := b.measure(s)
		results.Results = append(results.Results, r)
		r.printText(stdout)
		if ctx.Err() != nil {
			break
		}
	}
	results.printTargets(stdout)
	if err := ctx.Err(); err != nil {
		return err // half a run does not replace the record of a whole one
	}
	return results.writeFiles(o)
}
