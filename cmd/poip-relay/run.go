package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"poip/broker"
	"poip/certs"
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
that are still allowed are not disturbed. SIGTERM and SIGINT end it in order,
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
		return cfg, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// trust is what a relay proves itself with, and by whom sensors are signed.
type trust struct {
	keypair     *certs.Keypair
	authorities *x509.CertPool
}

func loadTrust(data string) (trust, error) {
	if err := certs.CheckFolder(data); err != nil {
		return trust{}, err
	}
	keypair, err := certs.LoadKeypair(filepath.Join(data, certs.RelayCert), filepath.Join(data, certs.RelayKey))
	if err != nil {
		return trust{}, err
	}
	authorities, err := certs.LoadAuthorities(filepath.Join(data, certs.CAFile))
	return trust{keypair, authorities}, err
}

// valid says why the relay's certificate could not replace one that is.
func (t trust) valid() error {
	if err := t.keypair.Valid(); err != nil {
		return fmt.Errorf("load %s: %w", certs.RelayCert, err)
	}
	return nil
}

// intakeTLS is for agents.
func (t trust) intakeTLS() *tls.Config { return certs.IntakeTLS(t.keypair, t.authorities) }

// analystTLS is for listeners, by their key client_auth.
func (t trust) analystTLS(clientAuth string) *tls.Config {
	if clientAuth == "cert" {
		return certs.AnalystTLS(t.keypair, t.authorities)
	}
	return certs.AnalystTLS(t.keypair, nil)
}

// options hands the broker its decisions about trust, each of which is made
// anew by what is in trusted at the time.
func options(trusted *atomic.Pointer[trust], log *slog.Logger) broker.Options {
	return broker.Options{
		Log:       log,
		IntakeTLS: certs.Following(func() *tls.Config { return trusted.Load().intakeTLS() }),
		AnalystTLS: func(clientAuth string) (*tls.Config, error) {
			return certs.Following(func() *tls.Config { return trusted.Load().analystTLS(clientAuth) }), nil
		},
	}
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
	loaded, err := loadTrust(cfg.Data)
	if err != nil {
		return err
	}
	var trusted atomic.Pointer[trust]
	trusted.Store(&loaded)
	for _, w := range warnings(cfg, loaded) {
		log.Warn(w)
	}
	b, err := broker.New(cfg, options(&trusted, log))
	if err != nil {
		return err
	}
	if err := confineTo(path, cfg, log); err != nil {
		return err
	}
	manager := systemd.Notifier{Log: log}
	reloads, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-reloads.Done():
				return
			case <-hup:
				manager.Reloading()
				reload(path, b, &trusted, log)
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

// reload puts a changed configuration and certificates in force, or says what
// is wrong and leaves everything as it is.
func reload(path string, b *broker.Broker, trusted *atomic.Pointer[trust], log *slog.Logger) {
	cfg, err := loadConfig(path)
	var fresh trust
	if err == nil {
		fresh, err = loadTrust(cfg.Data)
	}
	if err == nil {
		err = fresh.valid()
	}
	if err == nil {
		err = b.Reload(cfg) // the last that can fail
	}
	if err != nil {
		log.Error("reload failed; what was in force stays", "config", path, "error", err)
		return
	}
	trusted.Store(&fresh)
	for _, w := range warnings(cfg, fresh) {
		log.Warn(w)
	}
}

// expirySoon is how long before a certificate's end we begin to warn.
const expirySoon = 30 * 24 * time.Hour

func warnings(cfg broker.Config, trust trust) []string {
	out := cfg.Warnings()
	if err := trust.valid(); err != nil {
		return append(out, fmt.Sprintf("%s; agents and analysts will refuse the relay", err))
	}
	if end := trust.keypair.NotAfter(); time.Until(end) < expirySoon {
		out = append(out, fmt.Sprintf("the relay's certificate expires at %s: make a new one in time", end.UTC().Format(time.RFC3339)))
	}
	return out
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
	trust, err := loadTrust(cfg.Data)
	if err != nil {
		return err
	}
	for _, w := range warnings(cfg, trust) {
		fmt.Fprintln(stdout, "warning:", w)
	}
	fmt.Fprintf(stdout, "%s: ok, %d listeners\n", path, len(cfg.Listeners))
	return nil
}
