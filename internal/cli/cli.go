// Package cli is what the two commands have in common at their doors: the
// version, the logger, the signals and the exit code.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Version is what --version prints. The Makefile sets it; a plain `go install`
// leaves it to the module's build information.
var Version = ""

// Run executes the command with the arguments and returns the exit code: 0
// only on success. Errors go to stderr with the program's name before them.
// The first SIGINT or SIGTERM cancels the context, the second one kills.
func Run(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root.Version = version()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	begun := false
	note(root, &begun)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil, errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 0
	case !begun: // it was called in a wrong way
		err = fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
	}
	fmt.Fprintf(stderr, "%s: %v\n", root.Name(), err)
	return 1
}

// note has a command, and those below it, say when they begin to run.
func note(cmd *cobra.Command, begun *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*begun = true
			return run(cmd, args)
		}
	}
	for _, below := range cmd.Commands() {
		note(below, begun)
	}
}

func version() string {
	if Version != "" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// AgentVersion is the text by which an agent introduces itself to a relay.
func AgentVersion() string { return "poip-agent " + version() }

// LogFlags are the flags that choose how a command logs.
type LogFlags struct{ format, level string }

// Add defines the flags on a command and on those below it.
func (f *LogFlags) Add(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&f.format, "log-format", "text", "log `FORMAT`: text or json")
	cmd.PersistentFlags().StringVar(&f.level, "log-level", "info", "least `LEVEL` to log: debug, info, warn or error")
	Choices(cmd, "log-format", "text", "json")
	Choices(cmd, "log-level", "debug", "info", "warn", "error")
}

// Args are the flags as another of our commands takes them.
func (f *LogFlags) Args() []string {
	return []string{"--log-format", f.format, "--log-level", f.level}
}

// Logger makes the logger that the flags ask for.
func (f *LogFlags) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", f.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", f.format)
}
