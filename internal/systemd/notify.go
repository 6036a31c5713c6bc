// Package systemd tells the service manager how this program fares, as
// sd_notify(3) and sd_watchdog_enabled(3) say: that it is ready, that it reads
// its configuration again, that it ends, and, as long as that is so, that it is
// alive. Where no service manager asks for it, all of this does nothing.
package systemd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier speaks to the service manager that started this process.
type Notifier struct{ Log *slog.Logger }

// Ready says that the program does its work now, or does so again after Reloading.
func (n Notifier) Ready(status string) { n.tell(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Reloading says that the configuration is read again. Ready has to follow.
func (n Notifier) Reloading() {
	n.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the program ends.
func (n Notifier) Stopping() { n.tell(daemon.SdNotifyStopping) }

// Run runs the program's work until that returns. Meanwhile it watches it with
// look, and tells when ctx, and so the work, comes to its end.
func (n Notifier) Run(ctx context.Context, look func(), work func(context.Context) error) error {
	var beside sync.WaitGroup
	over, end := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { n.Watch(over, look) })
	beside.Go(func() {
		select {
		case <-ctx.Done():
		case <-over.Done():
		}
		n.Stopping()
	})
	err := work(ctx)
	end()
	beside.Wait()
	return err
}

// Watch says that the program is alive, twice in the time that the service
// manager gives it, until ctx ends. Each time it calls look, which goes through
// what the program's work goes through, its locks above all: when that is stuck
// look does not return, nothing is said any more, and the program is restarted.
func (n Notifier) Watch(ctx context.Context, look func()) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.Log.Warn("systemd's watchdog is not understood, and will restart this program", "error", err)
	}
	if err != nil || limit <= 0 {
		return
	}
	tick := time.NewTicker(limit / 2)
	defer tick.Stop()
	for {
		look()
		n.tell(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n Notifier) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.Log.Warn("systemd cannot be told", "error", err)
	}
}
