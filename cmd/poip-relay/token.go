package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
	"poip/internal/cli"
	"poip/internal/transport"
)

func newToken() *cobra.Command {
	var data string
	var relays []string
	var life time.Duration
	var replaces bool
	cmd := &cobra.Command{
		Use:   "token SENSOR --data DIR [--ttl 1h] [--replace] [--relay URL]...",
		Short: "Let a sensor join by one pasted line",
		Long: `token prints one line by which one sensor may join, once, until it expires. Carry
it there over a channel that you trust, and paste it into "poip-agent enroll".
It is a secret: whoever has it may become that sensor, as long as nobody has.

The line says where the relay is. Without --relay, that is every name and
address in the relay's certificate that is not this machine's own, and the
ports of DIR/relay.toml. A running relay needs not be told.

A sensor that has a certificate already may join anew only with --replace. Its
former certificates stay good until they expire: revoke them if they are lost.`,
		Example: `  poip-relay token branch-7 --data /var/lib/poip-relay
  poip-relay token branch-7 --data /var/lib/poip-relay --ttl 10m --relay tls://relay.example:57011
  poip-relay token list --data /var/lib/poip-relay
  poip-relay token cancel branch-7 --data /var/lib/poip-relay`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sensor, err := auth.ParseSensorName(args[0])
			if err != nil {
				return err
			}
			token, err := newTokenFor(data, sensor, relays, life, replaces)
			if err != nil {
				return err
			}
			record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.TokenMade, Sensor: string(sensor), Token: token.Secret.ID().String()})
			fmt.Fprintln(cmd.OutOrStdout(), token.Line())
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().StringArrayVar(&relays, "relay", nil, "`URL` of the relay for the sensor, tls://HOST:PORT or quic://HOST:PORT; may be repeated, and is tried in order")
	cmd.Flags().DurationVar(&life, "ttl", time.Hour, "`TIME` after which the token is of no use, at most 24h")
	cmd.Flags().BoolVar(&replaces, "replace", false, "although the sensor has a certificate already")
	cli.CompleteFirst(cmd, namesIn(&data, certs.RoleSensor))
	cmd.AddCommand(newTokenList(), newTokenCancel())
	return cmd
}

func newTokenFor(data string, sensor auth.SensorName, relays []string, life time.Duration, replaces bool) (auth.Token, error) {
	trust, err := certs.LoadTrust(data)
	if err != nil {
		return auth.Token{}, err
	}
	if err := trust.Valid(); err != nil {
		return auth.Token{}, err
	}
	leaf := trust.Relay().Certificate().Leaf
	token := auth.Token{Sensor: sensor, Relay: nameOf(leaf), Endpoints: relays, Secret: auth.NewSecret()}
	if token.Pin, err = trust.Pin(); err != nil {
		return auth.Token{}, err
	}
	if len(relays) == 0 {
		if token.Endpoints, err = endpointsOf(data, leaf); err != nil {
			return auth.Token{}, err
		}
	}
	for _, url := range token.Endpoints {
		if _, err := transport.ParseEndpoint(url); err != nil {
			return auth.Token{}, err
		}
	}
	if err := token.Check(); err != nil { // before there is anything to use
		return auth.Token{}, err
	}
	if token.Secret, err = certs.OpenTokens(data).Make(sensor, life, replaces); err != nil {
		return auth.Token{}, err
	}
	return token, nil
}

// nameOf is a name by which the relay's certificate holds.
func nameOf(leaf *x509.Certificate) string {
	if leaf.VerifyHostname(leaf.Subject.CommonName) == nil {
		return leaf.Subject.CommonName
	}
	if len(leaf.DNSNames) > 0 {
		return leaf.DNSNames[0]
	}
	return leaf.IPAddresses[0].String()
}

// mostHosts keeps a token's line short.
const mostHosts = 4

// endpointsOf finds out where the relay is reached.
func endpointsOf(data string, leaf *x509.Certificate) (urls []string, err error) {
	intake := broker.DefaultConfig().Intake
	path := filepath.Join(data, "relay.toml")
	if _, err := os.Stat(path); err == nil {
		cfg, err := loadConfig(path)
		if err != nil {
			return nil, fmt.Errorf("%w; or say where the relay is with --relay", err)
		}
		intake = cfg.Intake
	}
	for _, door := range []struct{ scheme, listen string }{{"tls", intake.TCP}, {"quic", intake.QUIC}} {
		if door.listen == "" {
			continue
		}
		host, port, err := net.SplitHostPort(door.listen)
		if err != nil || port == "0" {
			return nil, fmt.Errorf("%s does not say a port (%s): say where the relay is with --relay", path, door.listen)
		}
		for _, host := range hostsOf(host, leaf) {
			urls = append(urls, door.scheme+"://"+net.JoinHostPort(host, port))
		}
	}
	if len(urls) == 0 {
		return nil, errors.New("nobody knows where the relay is reached: say it with --relay")
	}
	return urls, nil
}

// hostsOf is the one address that an intake listens on, or else what the
// relay's certificate says of it.
func hostsOf(listen string, leaf *x509.Certificate) (hosts []string) {
	if ip, err := netip.ParseAddr(listen); err == nil && !ip.IsUnspecified() {
		return []string{listen}
	}
	for _, ip := range leaf.IPAddresses {
		if !ip.IsLoopback() {
			hosts = append(hosts, ip.String())
		}
	}
	for _, name := range leaf.DNSNames {
		if name != "localhost" {
			hosts = append(hosts, name)
		}
	}
	if len(hosts) == 0 {
		hosts = []string{"localhost"}
	}
	return hosts[:min(len(hosts), mostHosts)]
}

func newTokenList() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "list --data DIR",
		Short:   "List tokens, without their secrets",
		Example: "  poip-relay token list --data /var/lib/poip-relay",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := certs.OpenTokens(data).List()
			if err != nil {
				return err
			}
			return printTokens(cmd.OutOrStdout(), tokens)
		},
	}
	dataFlag(cmd, &data)
	return cmd
}

func printTokens(stdout io.Writer, tokens []certs.TokenEntry) error {
	out := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "SENSOR\tSTATE\tEXPIRES\tREPLACE\tUSED BY\tID")
	for _, t := range tokens {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Sensor, t.State, t.Expires.Format(time.RFC3339), strconv.FormatBool(t.Replace), t.Remote, t.ID)
	}
	return out.Flush()
}

func newTokenCancel() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "cancel {SENSOR | ID} --data DIR",
		Short:   "End tokens that were not used yet",
		Example: "  poip-relay token cancel branch-7 --data /var/lib/poip-relay",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			canceled, err := certs.OpenTokens(data).Cancel(args[0])
			for _, t := range canceled {
				fmt.Fprintf(cmd.OutOrStdout(), "canceled the token of %s, %s\n", t.Sensor, t.ID)
				record(cmd.ErrOrStderr(), data, audit.Entry{Event: audit.TokenCanceled, Sensor: string(t.Sensor), Token: t.ID})
			}
			if err == nil && len(canceled) == 0 {
				return fmt.Errorf("no open token of %.80q, by sensor or ID: poip-relay token list shows them", args[0])
			}
			return err
		},
	}
	dataFlag(cmd, &data)
	cli.CompleteFirst(cmd, openTokens(&data))
	return cmd
}
