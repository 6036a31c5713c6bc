package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"poip/broker"
	"poip/certs"
	"poip/internal/config"
)

func newCheck() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "check --config FILE",
		Short:   "Say what is wrong with a configuration",
		Long:    "check reads the configuration, certificates and keys as run would, and says what is\nwrong, where, and what to do. It opens no port and changes nothing.",
		Example: "  poip-relay check --config /var/lib/poip-relay/relay.toml",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return check(path, cmd.OutOrStdout()) },
	}
	configFlag(cmd, &path)
	return cmd
}

func check(path string, stdout io.Writer) error {
	cfg, err := loadMade(path)
	if err != nil {
		return err
	}
	if err := cfg.CheckFiles(); err != nil {
		return config.Within(path, err)
	}
	if _, err := historyKey(cfg.Stream.HistoryKey, cfg.Data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	trust, err := certs.LoadTrust(cfg.Data)
	if err != nil {
		return err
	}
	for _, w := range warnings(cfg, trust) {
		fmt.Fprintln(stdout, "warning:", w)
	}
	fmt.Fprintf(stdout, "%s: ok, %d listeners\n", path, len(cfg.Listeners))
	return nil
}

// warnings are about what is not wrong, and will be trouble.
func warnings(cfg broker.Config, trust *certs.Trust) []string {
	out := cfg.Warnings()
	if err := trust.Valid(); err != nil {
		return append(out, fmt.Sprintf("%s; agents and analysts will refuse the relay", err))
	}
	if leaf := trust.Relay().Certificate().Leaf; leaf.VerifyHostname(cfg.Name) != nil {
		out = append(out, fmt.Sprintf("key name: %q is not in the relay's certificate, which is for %s: whoever connects to that name refuses the relay; write one of these",
			cfg.Name, strings.Join(validFor(leaf), ", ")))
	}
	if endangered(trust.Relay(), time.Now()) {
		out = append(out, fmt.Sprintf("the relay's certificate expires at %s and was not renewed: the relay does that by itself where it finds %s",
			trust.Relay().NotAfter().UTC().Format(time.RFC3339), filepath.Join(cfg.Data, certs.CAKey)))
	}
	return out
}

// validFor are the names and addresses that a certificate is for.
func validFor(leaf *x509.Certificate) []string {
	hosts := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}
