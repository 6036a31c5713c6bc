package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
	"poip/internal/cli"
	"poip/internal/config"
	"poip/internal/systemd"
)

func newRun(logs *cli.LogFlags) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the relay",
		Long: `run takes streams in from agents and offers them to analysts until it is
stopped.

SIGHUP reads the configuration and the certificates again, all or nothing:
when anything is wrong, it says so and the old ones stay in force. Connections
that are still allowed are not disturbed, unless name, listen, each, tls,
client_auth, format or snaplen of their listener has changed. SIGTERM and SIGINT end it in order,
within five seconds: agents are told, analysts get what has arrived.`,
		Example: "  poip-relay run --config /var/lib/poip-relay/relay.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), path, log)
		},
	}
	configFlag(cmd, &path)
	return cmd
}

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "", "configuration `FILE`; see config.example.toml")
	cmd.MarkFlagRequired("config")
}

// loadConfig reads and checks a relay's configuration.
func loadConfig(path string) (broker.Config, error) {
	cfg := broker.DefaultConfig()
	if err := config.Load(path, "relay", &cfg); err != nil {
		return cfg, err
	}
	if err := cfg.Check(); err != nil {
		return cfg, config.Within(path, err)
	}
	return cfg, nil
}

// withRemedy says what to do about a port that cannot be had.
func withRemedy(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program has that port, perhaps another relay: end it (`ss -lntup` says which it is), or choose another port", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: a port below 1024 needs CAP_NET_BIND_SERVICE: grant it, or choose another port", err)
	}
	return err
}

// serve runs a relay until ctx ends.
func serve(ctx context.Context, path string, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // first of all: without this it kills
	defer signal.Stop(hup)
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	if err := madeByInit(cfg.Data); err != nil {
		return fmt.Errorf("%s: key data: %w", path, err)
	}
	keeper, err := newKeeper(cfg, log)
	if err != nil {
		return err
	}
	for _, w := range warnings(cfg, keeper.inForce.Load()) {
		log.Warn(w)
	}
	record, err := openAudit(cfg, log)
	if err != nil {
		return err
	}
	defer closeAudit(record, log)
	asked := make(chan chan error) // for a reload
	options := broker.Options{Log: log, Audit: record, Reload: askFor(ctx, asked), Revoke: revokeFor(cfg.Data)}
	if options.HistoryKey, err = historyKey(cfg.Stream.HistoryKey, cfg.Data); err != nil {
		return err
	}
	keeper.decide(&options)
	auditRenewals(&options, record)
	b, err := broker.New(cfg, options)
	if err != nil {
		return withRemedy(err)
	}
	keeper.broker = b
	keeper.use(keeper.inForce.Load())
	if err := confineTo(path, cfg, log); err != nil {
		return err
	}
	manager := systemd.Notifier{Log: log}
	reloads, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		look := time.NewTicker(lookPace)
		defer look.Stop()
		for {
			select {
			case <-reloads.Done():
				return
			case now := <-look.C:
				keeper.tend(now)
			case <-hup:
				manager.Reloading()
				reload(path, b, keeper, log)
				manager.Ready("running")
			case answer := <-asked:
				manager.Reloading()
				answer <- reload(path, b, keeper, log)
				manager.Ready("running")
			}
		}
	}()
	manager.Ready("running")
	err = manager.Run(ctx, func() { b.Streams(); b.Listeners() }, b.Run)
	stop()
	<-done
	return err
}

// askFor makes the function by which others have the configuration reloaded,
// and learn what came of it.
func askFor(ctx context.Context, asked chan<- chan error) func() error {
	return func() error {
		answer := make(chan error, 1)
		select {
		case asked <- answer:
			return <-answer
		case <-ctx.Done():
			return errors.New("the relay is shutting down")
		}
	}
}

func closeAudit(record *audit.Log, log *slog.Logger) {
	if err := record.Close(); err != nil {
		log.Error("the end of the audit log is missing", "error", err)
	}
}

// reload puts a changed configuration and certificates in force, or says what
// is wrong and leaves everything as it is.
func reload(path string, b *broker.Broker, keeper *keeper, log *slog.Logger) error {
	cfg, err := loadConfig(path)
	var fresh *certs.Trust
	if err == nil {
		fresh, err = keeper.load()
	}
	if err == nil {
		err = b.Reload(cfg) // the last that can fail
	}
	if err != nil {
		log.Error("reload failed; what was in force stays", "config", path, "error", err)
		b.ReloadRefused(err)
		return err
	}
	keeper.lives.Store(&cfg.Certs)
	keeper.use(fresh)
	for _, w := range warnings(cfg, fresh) {
		log.Warn(w)
	}
	return nil
}

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
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	if err := madeByInit(cfg.Data); err != nil {
		return fmt.Errorf("%s: key data: %w", path, err)
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
