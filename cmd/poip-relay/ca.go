package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"poip/certs"
	"poip/internal/audit"
)

func newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca {rotate | retire | issuer} --data DIR",
		Short: "Move to a new CA without turning anybody away",
		Long: `ca replaces the CA of a relay in two steps. In between, the relay trusts both,
and shows a certificate that leads to either.

  rotate   makes the new CA. Sensors that are online hear of it within seconds,
           and renew their certificates; so does the relay.
  retire   ends the trust in the old CA, its certificates and the TLS sessions
           that were opened with them.

Where "init --offline-ca" has put the CA's key elsewhere, the relay signs with
an intermediate:

  issuer   makes the relay another intermediate, with the CA's key at hand.

A running relay notices within a second.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newRotate(), newRetire(), newIssuer())
	return cmd
}

func newRotate() *cobra.Command {
	var data, offline string
	cmd := &cobra.Command{
		Use:     "rotate --data DIR [--offline-ca DIR2]",
		Short:   "Make a new CA beside the old one",
		Example: "  poip-relay ca rotate --data /var/lib/poip-relay",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := certs.Rotate(data, offline, time.Duration(livesBelow(data).Relay)); err != nil {
				return err
			}
			record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.AuthorityChanged, Reason: "rotate"})
			fmt.Fprintf(cmd.OutOrStdout(), `made a new CA; the old one is trusted beside it, and its key is gone

next: wait until every sensor has been online, and has its certificate from the
new CA, then end the trust in the old one
  poip-relay sensors --data %[1]s
  poip-relay ca retire --data %[1]s
Analysts with certificates of the old CA need new ones before that, and those who
verify the relay need the new %[1]s/%[2]s.
`, data, certs.CAFile)
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&offline, "offline-ca", "", "`DIR2` of the CA's key, where init --offline-ca has put it")
	return cmd
}

func newRetire() *cobra.Command {
	var data string
	var force bool
	cmd := &cobra.Command{
		Use:   "retire --data DIR [--force]",
		Short: "End the trust in the old CA",
		Long: `retire ends the trust in every CA but the newest. It refuses, and names them,
while there are sensors or analysts who have no certificate of the new CA yet;
with --force these have to join anew.`,
		Example: "  poip-relay ca retire --data /var/lib/poip-relay",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := certs.Retire(data, time.Duration(livesBelow(data).Relay), force); err != nil {
				return err
			}
			record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.AuthorityChanged, Reason: "retire"})
			fmt.Fprintln(cmd.OutOrStdout(), "the old CA is not trusted any more")
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().BoolVar(&force, "force", false, "although somebody has no certificate of the new CA yet")
	return cmd
}

func newIssuer() *cobra.Command {
	var data, offline string
	cmd := &cobra.Command{
		Use:     "issuer --data DIR --offline-ca DIR2",
		Short:   "Make another intermediate, where the CA's key is kept elsewhere",
		Example: "  poip-relay ca issuer --data /var/lib/poip-relay --offline-ca /media/safe/poip-ca",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := certs.Delegate(data, offline); err != nil {
				return err
			}
			record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.AuthorityChanged, Reason: "another intermediate"})
			fmt.Fprintf(cmd.OutOrStdout(), "made another intermediate; what the former one has signed stays good\n")
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&offline, "offline-ca", "", "`DIR2` with the CA's key")
	cmd.MarkFlagRequired("offline-ca")
	return cmd
}

func dataFlag(cmd *cobra.Command, data *string) {
	cmd.Flags().StringVar(data, "data", "", "`DIR`ectory that init made")
	cmd.MarkFlagRequired("data")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := madeByInit(*data); err != nil {
			return err
		}
		return run(cmd, args)
	}
}
