package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/certs"
	"poip/internal/audit"
)

// relayTOML is the configuration that init leaves: name, then data.
//
//go:embed relay.toml.tmpl
var relayTOML string

func newInit() *cobra.Command {
	var data, name string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "init --data DIR [--name NAME] [--host HOST]...",
		Short: "Make a CA, the relay's certificate and a configuration file",
		Long: `init makes, in DIR, a certificate authority for this relay and its sensors, the
relay's own certificate (ECDSA P-256), and a commented relay.toml to start from.
It overwrites nothing.

The certificate is valid for NAME, for every HOST, and for localhost, 127.0.0.1
and ::1. Give every name and address by which agents and analysts reach the
relay.`,
		Example: "  poip-relay init --data /var/lib/poip-relay --host relay.example --host 192.0.2.1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				name = defaultName(hosts)
			}
			if err := initRelay(data, name, hosts); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), `made the CA, the relay's certificate and relay.toml in %[1]s

next:
  poip-relay issue SENSOR --data %[1]s --out SENSOR     an identity to copy to a sensor
  poip-relay run --config %[2]s
`, data, filepath.Join(data, "relay.toml"))
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR`ectory of the CA, keys and state; made if it is not there")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the relay in its certificate (default: the first host, else this machine's name)")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or IP address by which the relay is reached; may be repeated")
	cmd.MarkFlagRequired("data")
	return cmd
}

func defaultName(hosts []string) string {
	if len(hosts) > 0 {
		return hosts[0]
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		return strings.ToLower(host)
	}
	return "localhost"
}

func initRelay(data, name string, hosts []string) error {
	path := filepath.Join(data, "relay.toml")
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is already there: init overwrites nothing; remove it or choose another --data", path)
	}
	if err := certs.Init(data, name, hosts); err != nil {
		return err
	}
	absolute, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if _, err := fmt.Fprintf(f, relayTOML, name, absolute); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

func newIssue() *cobra.Command {
	var data, out string
	cmd := &cobra.Command{
		Use:   "issue SENSOR --data DIR --out DIR2",
		Short: "Make an identity for a sensor, to be copied there",
		Long: `issue makes a key and a certificate for the sensor and puts them, with the CA's
certificate, into DIR2. Copy DIR2 to the sensor over a channel that you trust
and name it there with "poip-agent run --data" or in the agent's configuration.

A sensor's name is made of a-z, 0-9, dot, underscore and hyphen, begins with a
letter or digit, and is at most 63 characters long.`,
		Example: "  poip-relay issue branch-7 --data /var/lib/poip-relay --out ./branch-7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sensor, err := auth.ParseSensorName(args[0])
			if err != nil {
				return err
			}
			if err := certs.IssueSensor(data, sensor, out); err != nil {
				return err
			}
			record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.Issued, Sensor: string(sensor)})
			fmt.Fprintf(cmd.OutOrStdout(), `made an identity for %[1]s in %[2]s

next: copy %[2]s to the sensor, keep its modes, and there
  poip-agent run --relay tls://RELAY:57011 --data DIR --interface IF
`, sensor, out)
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR`ectory that init made")
	cmd.Flags().StringVar(&out, "out", "", "`DIR`ectory to make for the sensor")
	cmd.MarkFlagRequired("data")
	cmd.MarkFlagRequired("out")
	return cmd
}
