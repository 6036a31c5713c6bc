package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"poip/auth"
	"poip/certs"
	"poip/internal/cli"
)

func newEnroll(logs *cli.LogFlags) *cobra.Command {
	var data, file string
	var replaces bool
	cmd := &cobra.Command{
		Use:   "enroll --data DIR [--token-file FILE]",
		Short: "Join a relay by the line that \"poip-relay token\" has printed",
		Long: `enroll gives this sensor its identity. It reads the line that "poip-relay token"
has printed on the relay: from FILE, from standard input, or from a prompt that
does not show it. It makes a key, verifies the relay by the line, and asks it
for a certificate; the key stays in DIR, and the line's secret is sent nowhere.

The line is not taken as an argument: those are shown to everybody on a machine.`,
		Example: `  poip-agent enroll --data /var/lib/poip-agent
  poip-agent enroll --data /var/lib/poip-agent --token-file token.txt
  ssh relay.example poip-relay token branch-7 --data /var/lib/poip-relay | poip-agent enroll --data /var/lib/poip-agent`,
		Args: noTokens,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			token, err := readToken(cmd.Context(), file, cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			joined, err := (&certs.Joiner{Token: token, Dir: data, Replace: replaces, Log: log}).Join(cmd.Context())
			if err != nil {
				return err
			}
			printJoined(cmd.OutOrStdout(), token, data, joined)
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR`ectory for key, certificate and CA; made if it is not there")
	cmd.Flags().StringVar(&file, "token-file", "", "`FILE` with the line, instead of standard input")
	cmd.Flags().BoolVar(&replaces, "replace", false, "put the new identity in place of one that is there")
	cmd.MarkFlagRequired("data")
	return cmd
}

// noTokens refuses arguments, and does not repeat them.
func noTokens(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return errors.New("enroll takes no argument: a command line is shown to everybody on this machine, and kept in the shell's history. " +
		"Give the token on standard input, at the prompt, or with --token-file. If what you gave was a token, it is no secret any more: " +
		"cancel it on the relay (poip-relay token cancel SENSOR) and make another one")
}

// readToken reads the one line that is a token.
func readToken(ctx context.Context, file string, stdin io.Reader, stderr io.Writer) (auth.Token, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return auth.Token{}, fmt.Errorf("read token: %w", err)
		}
		defer f.Close()
		return firstLine(f)
	}
	if terminal, ok := stdin.(*os.File); ok && term.IsTerminal(int(terminal.Fd())) {
		fmt.Fprint(stderr, "Paste the line of poip-relay token (it is not shown): ")
		line, err := askUnseen(ctx, terminal)
		fmt.Fprintln(stderr)
		if err != nil {
			return auth.Token{}, fmt.Errorf("read token: %w", err)
		}
		return auth.ParseToken(string(line))
	}
	return firstLine(stdin)
}

// askUnseen reads a line from a terminal without echo. When ctx ends, the
// terminal is as it was before, and whoever still reads ends with the program.
func askUnseen(ctx context.Context, terminal *os.File) ([]byte, error) {
	before, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		return nil, err
	}
	type answer struct {
		line []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(int(terminal.Fd()))
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), term.Restore(int(terminal.Fd()), before))
	}
}

// firstLine passes over empty lines, and reads no more than a token may have.
func firstLine(r io.Reader) (auth.Token, error) {
	lines := bufio.NewScanner(io.LimitReader(r, 4*auth.MaxTokenLen))
	lines.Buffer(make([]byte, 0, auth.MaxTokenLen+2), auth.MaxTokenLen+2)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			return auth.ParseToken(line)
		}
	}
	return auth.Token{}, errors.New("no token was given: paste the line that poip-relay token has printed, or name a file with --token-file")
}

// printJoined says what to do next.
func printJoined(out io.Writer, token auth.Token, data string, joined certs.Joined) {
	fmt.Fprintf(out, `this sensor is %s; its identity is in %s, good until %s
(the agent renews it by itself while it runs)

next:
`, token.Sensor, data, joined.Certificate.NotAfter.UTC().Format(time.RFC3339))
	if behind := time.Until(joined.Certificate.NotBefore); behind > 0 {
		fmt.Fprintf(out, "  set this machine's clock: it is %s behind the relay's, or more\n", behind.Round(time.Second))
	}
	for _, config := range []string{filepath.Join(data, "agent.toml"), "/etc/poip/agent.toml"} {
		if _, err := os.Stat(config); err == nil {
			fmt.Fprintf(out, "  poip-agent run --config %s\n", config)
			return
		}
	}
	name := ""
	if !joined.Named {
		name = " --relay-name " + token.Relay
	}
	fmt.Fprintf(out, "  poip-agent interfaces\n  poip-agent run --relay %s%s --data %s --interface IF\n", joined.Endpoint, name, data)
}
