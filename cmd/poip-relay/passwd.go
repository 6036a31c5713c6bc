package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"poip/auth"
	"poip/internal/cli"
)

func newPasswd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "passwd NAME [--role viewer|operator]",
		Short: "Make a line of the administration's password file",
		Long: fmt.Sprintf(`passwd asks for a password, or reads it from the first line of standard input,
and prints a line for the file that the key passwords of [relay.admin] names.
The line holds a hash (argon2id), not the password. The file has mode 0600, and
a reload puts it in force.

A viewer sees status and metrics; an operator may reload the configuration,
disconnect analysts and revoke certificates as well. A password has at least %d
characters.`, auth.MinPassword),
		Example: `  poip-relay passwd prometheus >> /var/lib/poip-relay/passwords
  curl -u alice --cacert ca.pem -X POST https://relay.example:57080/api/v1/reload`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if role != "viewer" && role != "operator" {
				return fmt.Errorf("--role %q: want viewer or operator", role)
			}
			if _, err := auth.ParseAnalystName(args[0]); err != nil {
				return fmt.Errorf("%.80q is no name: use a-z, 0-9 and, not in front, . _ -", args[0])
			}
			password, err := askPassword(cmd.InOrStdin(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			hash, err := auth.HashPassword(password)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s:%s:%s\n", args[0], role, hash)
			return nil
		},
	}
	cmd.Flags().StringVar(&role, "role", "viewer", "what the user may do: `viewer` or operator")
	cli.Choices(cmd, "role", "viewer", "operator")
	return cmd
}

// askPassword asks a terminal twice, and reads a line of anything else.
func askPassword(in io.Reader, prompt io.Writer) (string, error) {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return askTerminal(int(f.Fd()), prompt)
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func askTerminal(fd int, prompt io.Writer) (string, error) {
	var answers [2]string
	for i, question := range []string{"password: ", "again: "} {
		fmt.Fprint(prompt, question)
		answer, err := term.ReadPassword(fd)
		fmt.Fprintln(prompt)
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		answers[i] = string(answer)
	}
	if answers[0] != answers[1] {
		return "", errors.New("the two passwords differ")
	}
	return answers[0], nil
}
