package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/certs"
	"poip/internal/audit"
	"poip/internal/cli"
)

func newRevoke() *cobra.Command {
	var data, serial, analyst string
	cmd := &cobra.Command{
		Use:   "revoke {SENSOR | --analyst NAME | --serial N} --data DIR",
		Short: "Cut off a stolen sensor, an analyst or one certificate",
		Long: `revoke makes certificates count for nothing: all that a sensor or an analyst
has, or one by its serial number, with those that were renewed from it. A
running relay ends their connections within seconds, and lets nobody in with
their keys.

A sensor that was revoked may join again, with a token that says --replace; an
analyst gets another certificate by issue.`,
		Example: `  poip-relay revoke branch-7 --data /var/lib/poip-relay
  poip-relay revoke --serial 5f3a90c1 --data /var/lib/poip-relay`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := len(args)
			for _, s := range []string{serial, analyst} {
				if s != "" {
					given++
				}
			}
			if given != 1 {
				return errors.New("say what to revoke: a SENSOR, or --analyst NAME, or --serial N")
			}
			if serial != "" {
				err := revokeSerial(cmd.OutOrStdout(), data, serial)
				if err == nil {
					record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.Revoked, Serial: serial})
				}
				return err
			}
			who, err := revokedSubject(args, analyst)
			if err != nil {
				return err
			}
			if err := revokeName(cmd.OutOrStdout(), data, who); err != nil {
				return err
			}
			e := audit.Entry{Event: audit.Revoked, Analyst: analyst}
			if len(args) > 0 {
				e.Sensor = args[0]
			}
			record(cmd.ErrOrStderr(), data, e)
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringVar(&serial, "serial", "", "serial `N`umber of one certificate, in hexadecimal")
	cmd.Flags().StringVar(&analyst, "analyst", "", "`NAME` of an analyst")
	cli.Complete(cmd, "analyst", namesIn(&data, certs.RoleAnalyst))
	cli.CompleteFirst(cmd, namesIn(&data, certs.RoleSensor))
	return cmd
}

func revokedSubject(args []string, analyst string) (certs.Subject, error) {
	if analyst != "" {
		name, err := auth.ParseAnalystName(analyst)
		return certs.AnalystSubject(name), err
	}
	name, err := auth.ParseSensorName(args[0])
	return certs.SensorSubject(name), err
}

func revokeName(stdout io.Writer, data string, who certs.Subject) error {
	known, err := certs.RevokeName(data, who)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "revoked %s: %d certificates, and any other that was not issued from now on\n", who, known)
	return nil
}

func revokeSerial(stdout io.Writer, data, serial string) error {
	who, serials, err := certs.RevokeSerial(data, serial)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "revoked of %s: %s\n", who, strings.Join(serials, ", "))
	return nil
}
