package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"poip/broker"
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
client_auth, format or snaplen of their listener has changed. SIGTERM and SIGINT
end it in order, within five seconds: agents are told, analysts get what has
arrived.`,
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

// loadMade is loadConfig for who needs the folder that init made.
func loadMade(path string) (broker.Config, error) {
	cfg, err := loadConfig(path)
	if err != nil {
		return cfg, err
	}
	if err := madeByInit(cfg.Data); err != nil {
		return cfg, fmt.Errorf("%s: key data: %w", path, err)
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
	cfg, err := loadMade(path)
	if err != nil {
		return err
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
	b, err := makeRelay(cfg, keeper, broker.Options{Log: log, Audit: record, Reload: askFor(ctx, asked), Revoke: revokeFor(cfg.Data)})
	if err != nil {
		return err
	}
	if err := confineTo(path, cfg, log); err != nil {
		return err
	}
	manager := systemd.Notifier{Log: log}
	anew := func() error {
		manager.Reloading()
		defer manager.Ready("running")
		return reload(path, b, keeper, log)
	}
	attending, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		attend(attending, keeper, hup, asked, anew)
	}()
	manager.Ready("running")
	err = manager.Run(ctx, func() { b.Streams(); b.Listeners() }, b.Run)
	stop()
	<-done
	return err
}

// makeRelay makes a relay, whose sockets are bound, and has it follow the keeper.
func makeRelay(cfg broker.Config, keeper *keeper, o broker.Options) (*broker.Broker, error) {
	key, err := historyKey(cfg.Stream.HistoryKey, cfg.Data)
	if err != nil {
		return nil, err
	}
	o.HistoryKey = key
	keeper.decide(&o)
	auditRenewals(&o, o.Audit)
	b, err := broker.New(cfg, o)
	if err != nil {
		return nil, withRemedy(err)
	}
	keeper.broker = b
	keeper.use(keeper.inForce.Load())
	return b, nil
}

func closeAudit(record *audit.Log, log *slog.Logger) {
	if err := record.Close(); err != nil {
		log.Error("the end of the audit log is missing", "error", err)
	}
}
