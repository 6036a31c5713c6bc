package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"poip/agent"
	"poip/agent/capture"
	"poip/certs"
	"poip/internal/cli"
	"poip/internal/config"
	"poip/internal/journal"
	"poip/internal/systemd"
	"poip/internal/transport"
)

func newRun(logs *cli.LogFlags) *cobra.Command {
	var settings settings
	cmd := &cobra.Command{
		Use:   "run {--config FILE | --relay URL --data DIR --interface IF}",
		Short: "Capture and push until stopped, or until the files have ended",
		Long: `run captures packets and pushes them to a relay. Give a configuration file, or
flags for a single capture.

It runs until SIGTERM or SIGINT, then delivers what it holds and ends within
five seconds. When all its captures are files or standard input, it ends by
itself as soon as the relay has acknowledged everything.

Capturing from an interface needs CAP_NET_RAW and nothing more;
"poip-agent interfaces" says whether it is there and how to grant it.`,
		Example: `  poip-agent run --config /etc/poip/agent.toml
  poip-agent run --relay tls://192.0.2.1:57011 --data ./branch-7 --interface eth0 --filter 'not port 22'
  poip-agent run --relay quic://192.0.2.1:57011 --data ./branch-7 --file trace.pcapng
  tcpdump -U -w - | poip-agent run --relay tls://192.0.2.1:57011 --data ./branch-7 --stdin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings.load()
			if err != nil {
				return err
			}
			progress := newProgress(cmd.ErrOrStderr())
			defer progress.end()
			log, err := logs.Logger(progress.log(cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg, settings.file, cmd.InOrStdin(), progress, log)
		},
	}
	settings.flags(cmd)
	return cmd
}

// settings are where the configuration comes from: a file, or flags for one
// capture.
type settings struct {
	file   string
	relays []string
	config agent.Config
	one    agent.CaptureConfig

	// What flags cannot write there by themselves.
	memory      string
	spool       string
	promiscuous bool
}

func (s *settings) flags(cmd *cobra.Command) {
	s.config = agent.DefaultConfig()
	f := cmd.Flags()
	f.StringVar(&s.file, "config", "", "configuration `FILE`; instead of all that follow")
	f.StringSliceVar(&s.relays, "relay", nil, "`URL` of the relay, tls://HOST:PORT or quic://HOST:PORT; several are tried in order")
	f.StringVar(&s.memory, "memory", s.config.Memory.String(), "`SIZE` of what may wait while the relay does not acknowledge")
	f.StringVar(&s.spool, "spool", s.config.Spool.String(), "`SIZE` of the disk below --data for what does not fit there; 0 is none")
	f.StringVar((*string)(&s.config.SpoolOverflow), "spool-overflow", string(s.config.SpoolOverflow), "when both are full: `drop_oldest`, drop_newest or block")
	f.StringVar((*string)(&s.config.SpoolSync), "spool-sync", string(s.config.SpoolSync), "`periodic`: what waits for a second goes to disk; batch: everything at once")
	f.StringVar(&s.config.SpoolKey, "spool-key", "", "`FILE` of the key that encrypts the spool, outside of --data (default plain)")
	f.StringVar(&s.config.Admin.Listen, "admin", "", "loopback `ADDRESS` for metrics and status, as 127.0.0.1:57081 (default none)")
	f.StringVar(&s.config.Congestion, "congestion", s.config.Congestion, "TCP congestion control by `NAME`, or auto")
	f.StringVar(&s.config.RelayName, "relay-name", "", "`NAME` in the relay's certificate, where it is not the HOST")
	f.StringVar(&s.config.User, "user", "", "`NAME` of the user to become, once sockets are open")
	f.StringVar((*string)(&s.config.Confine), "confine", string(s.config.Confine), "what is given up once sockets are open: `auto`, require or off")
	f.StringVar(&s.config.Data, "data", "", "`DIR`ectory with sensor.pem, sensor.key and ca.pem")
	f.StringVar(&s.one.Name, "name", "", "`NAME` of the stream (default: made from what is captured)")
	f.StringVar(&s.one.Interface, "interface", "", "capture from the interface `IF`, or from \"any\"")
	f.StringVar(&s.one.File, "file", "", "read the pcap or pcapng file at `PATH`")
	f.BoolVar(&s.one.Stdin, "stdin", false, "read pcap or pcapng from standard input")
	f.StringArrayVar(&s.one.Command, "command", nil, "read pcap or pcapng from a `PROGRAM`; give the flag again for each argument")
	f.StringVar(&s.one.Filter, "filter", "", "`EXPRESSION` in tcpdump's language")
	f.StringVar(&s.one.FilterProgram, "filter-program", "", "`PROGRAM` that tcpdump -ddd has printed, instead of a filter")
	f.Var(&s.one.Snaplen, "snaplen", "longest captured length in `BYTES` (default 262144)")
	f.StringVar((*string)(&s.one.Latency), "latency", "", "`normal` (milliseconds, cheap) or low (at once)")
	f.BoolVar(&s.promiscuous, "promiscuous", true, "of an interface: see packets for other machines, too")
	f.StringVar((*string)(&s.one.Direction), "direction", "", "packets that come `in` or go out (default both)")
	f.StringVar(&s.one.Pace, "pace", "", "of a file: `max`, or original for the pace of its times")
	complete(cmd)
	for _, flag := range []string{
		"relay", "relay-name", "data", "memory", "congestion", "name", "interface", "file", "stdin", "command",
		"filter", "filter-program", "snaplen", "spool", "spool-overflow", "spool-sync", "spool-key", "admin", "latency", "promiscuous", "direction", "pace", "user", "confine",
	} {
		cmd.MarkFlagsMutuallyExclusive("config", flag) // rather than leave it out silently
	}
}

// load reads and checks the configuration.
func (s *settings) load() (agent.Config, error) {
	cfg := agent.DefaultConfig()
	if s.file != "" {
		if err := config.Load(s.file, "agent", &cfg); err != nil {
			return cfg, err
		}
		if err := cfg.Check(); err != nil {
			return cfg, config.Within(s.file, err)
		}
		return cfg, nil
	}
	if len(s.relays) == 0 || s.config.Data == "" {
		return cfg, errors.New("say what to do: --config FILE, or --relay URL --data DIR and one of --interface, --file, --stdin, --command")
	}
	if s.one.Interface == "" && s.one.File == "" && !s.one.Stdin && len(s.one.Command) == 0 {
		return cfg, errors.New("say what to capture: one of --interface, --file, --stdin, --command")
	}
	cfg = s.config
	var err error
	if cfg.Relay, err = agent.ParseRelays(s.relays...); err != nil {
		return cfg, fmt.Errorf("--relay: %w", err)
	}
	if err := cfg.Memory.UnmarshalText([]byte(s.memory)); err != nil {
		return cfg, fmt.Errorf("--memory: %w", err)
	}
	if err := cfg.Spool.UnmarshalText([]byte(s.spool)); err != nil {
		return cfg, fmt.Errorf("--spool: %w", err)
	}
	one := s.one
	if !s.promiscuous {
		one.Promiscuous = &s.promiscuous
	}
	cfg.Captures = []agent.CaptureConfig{one}
	return cfg, cfg.Check()
}

// An identity is who we are, and whom we trust.
type identity struct {
	sensor *certs.Sensor
	dialer *transport.Dialer
}

func loadIdentity(cfg agent.Config, log *slog.Logger) (identity, error) {
	sensor, err := certs.OpenSensor(cfg.Data, cfg.RelayName)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, fmt.Errorf("no sensor's identity is in %s: %w: paste the line that `poip-relay token` prints into `poip-agent enroll --data %s`", cfg.Data, err, cfg.Data)
	}
	if err != nil {
		return identity{}, err
	}
	if err := transport.CheckCongestion(cfg.Congestion); err != nil {
		return identity{}, err
	}
	return identity{sensor, &transport.Dialer{
		CurrentTLS: sensor.TLS,
		CAFile:     filepath.Join(cfg.Data, certs.CAFile),
		Congestion: cfg.Congestion,
		Log:        log,
	}}, nil
}

// renewal lets the agent keep the certificate alive.
func (id identity) renewal(log *slog.Logger) *agent.Renewal {
	return &agent.Renewal{
		Life: id.sensor.Life, Due: id.sensor.Due, Request: id.sensor.Request,
		Accept: id.sensor.Accept, Trust: id.sensor.Trust, Log: log,
	}
}

// spoolKey reads the key that spools are encrypted with; nil, if they are not.
func spoolKey(cfg agent.Config) (*journal.Key, error) {
	if cfg.SpoolKey == "" {
		return nil, nil
	}
	secret, err := config.ReadKey(cfg.SpoolKey, cfg.Data)
	if err != nil {
		return nil, fmt.Errorf("key spool_key: %w", err)
	}
	return journal.NewKey(secret)
}

// run runs an agent by the configuration from a file, or from flags if that is
// empty.
func run(ctx context.Context, cfg agent.Config, file string, stdin io.Reader, progress *progress, log *slog.Logger) error {
	id, err := loadIdentity(cfg, log)
	if err != nil {
		return err
	}
	defer id.dialer.Close()
	// What waits for its interface or its first packet would show its mistakes
	// only then. A file shows them at once, and does not keep others from going.
	waits := func(c agent.CaptureConfig) bool { return c.File == "" }
	if err := checkCaptures(ctx, cfg, file, waits); err != nil {
		return err
	}
	a := agent.New(cfg, id.sensor.Name(), cli.AgentVersion(), log)
	if a.SpoolKey, err = spoolKey(cfg); err != nil {
		return err
	}
	a.Open, a.Stdin, a.Renewal = id.dialer.Open, stdin, id.renewal(log)
	if progress.bars != nil {
		a.Progress = progress.show
	}
	id.dialer.Resolved = a.Resolved
	manager := systemd.Notifier{Log: log}
	a.Prepared = func() error {
		if err := confineTo(cfg, log); err != nil {
			return err
		}
		manager.Ready("capturing")
		return nil
	}
	return manager.Run(ctx, func() { a.Status() }, a.Run)
}

func newCheck() *cobra.Command {
	var settings settings
	cmd := &cobra.Command{
		Use:   "check {--config FILE | --relay URL --data DIR --interface IF}",
		Short: "Say what is wrong with a configuration",
		Long: `check reads the configuration, certificates and keys as run would, compiles the
filters, and says what is wrong, where, and what to do. It asks nothing of the
network.`,
		Example: "  poip-agent check --config /etc/poip/agent.toml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings.load()
			if err != nil {
				return err
			}
			id, err := loadIdentity(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if _, err := spoolKey(cfg); err != nil {
				return err
			}
			if err := checkCaptures(cmd.Context(), cfg, settings.file, all); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "ok: sensor %s, %d captures\n", id.sensor.Name(), len(cfg.Captures))
			return nil
		},
	}
	settings.flags(cmd)
	return cmd
}

func all(agent.CaptureConfig) bool { return true }

// checkCaptures tries what would else fail only later.
func checkCaptures(ctx context.Context, cfg agent.Config, file string, which func(agent.CaptureConfig) bool) error {
	var wrong []error
	for _, c := range cfg.Captures {
		if !which(c) {
			continue
		}
		if err := c.Try(ctx); err != nil {
			wrong = append(wrong, config.Within(file, fmt.Errorf("capture %s: %w", c.Name, err)))
		}
	}
	for _, c := range cfg.Captures {
		if c.Interface != "" {
			wrong = append(wrong, capture.Permitted())
			break
		}
	}
	return errors.Join(wrong...)
}
