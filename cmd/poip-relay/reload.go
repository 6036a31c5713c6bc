package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"poip/broker"
	"poip/certs"
)

// attend looks after a relay that runs: what its keeper has to do, and reloads,
// which are ordered by SIGHUP, or asked for by who waits for the answer.
func attend(ctx context.Context, keeper *keeper, hup <-chan os.Signal, asked <-chan chan error, anew func() error) {
	look := time.NewTicker(lookPace)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-look.C:
			keeper.tend(now)
		case <-hup:
			anew() // which says what is wrong
		case answer := <-asked:
			answer <- anew()
		}
	}
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
