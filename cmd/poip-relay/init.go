package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"poip/certs"
)

// relayTOML is the configuration that init leaves: name, then data.
//
//go:embed relay.toml.tmpl
var relayTOML string

func newInit() *cobra.Command {
	var data, name, offline string
	var hosts []string
	cmd := &cobra.Command{
		Use:   "init --data DIR [--name NAME] [--host HOST]... [--offline-ca DIR2]",
		Short: "Make a CA, the relay's certificate and a configuration file",
		Long: `init makes, in DIR, a certificate authority for this relay and its sensors, the
relay's own certificate (ECDSA P-256), and a commented relay.toml to start from.
It overwrites nothing.

The certificate is valid for NAME, for every HOST, and for localhost, 127.0.0.1
and ::1. Give every name and address by which agents and analysts reach the
relay.

With --offline-ca, the CA's key goes to DIR2, to be taken off the machine, and
the relay signs with an intermediate that lasts two years; "ca issuer" makes
the next one. Agents and analysts notice no difference.`,
		Example: "  poip-relay init --data /var/lib/poip-relay --host relay.example --host 192.0.2.1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" {
				name = defaultName(hosts)
			}
			if err := initRelay(data, offline, name, hosts); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), `made the CA, the relay's certificate and relay.toml in %[1]s

next:
  poip-relay token SENSOR --data %[1]s     one line, by which a sensor joins
  poip-relay run --config %[2]s
`, data, filepath.Join(data, "relay.toml"))
			if offline != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "\nthe CA's key is in %[1]s: keep it off this machine; it is needed for `poip-relay ca issuer` within two years\n", offline)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR`ectory of the CA, keys and state; made if it is not there")
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the relay in its certificate (default: the first host, else this machine's name)")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or IP address by which the relay is reached; may be repeated")
	cmd.Flags().StringVar(&offline, "offline-ca", "", "`DIR2` for the CA's key, which the relay does not need then")
	cmd.MarkFlagRequired("data")
	return cmd
}

// madeByInit refuses a folder in which no relay is.
func madeByInit(data string) error {
	if _, err := os.Stat(filepath.Join(data, certs.CAFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no relay is in %s: %w: name the folder that `poip-relay init` made, or run `poip-relay init --data %s`", data, err, data)
	}
	return nil // what else is wrong, others say
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

func initRelay(data, offline, name string, hosts []string) error {
	path := filepath.Join(data, "relay.toml")
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is already there: init overwrites nothing; remove it or choose another --data", path)
	}
	var err error
	if offline == "" {
		err = certs.Init(data, name, hosts)
	} else {
		err = certs.InitOffline(data, offline, name, hosts)
	}
	if err != nil {
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
