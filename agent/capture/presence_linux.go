package capture

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// presence knows whether an interface is there, and says so once when it
// changes.
type presence struct {
	log     *slog.Logger
	tell    func(here bool) // may be nil
	missing bool            // absent or down
	said    string          // last
}

// await waits until the interface is there, up or down.
func (p *presence) await(ctx context.Context, watch *linkWatch, waker *waker) (link, error) {
	for {
		watch.drain()
		l, err := watch.look()
		if err == nil || !errors.Is(err, unix.ENODEV) {
			return l, err
		}
		p.note(l, err)
		fds := []unix.PollFd{{}, {Fd: int32(watch.fd), Events: unix.POLLIN}}
		if err := waker.wait(fds, time.Second); err != nil {
			return l, err
		}
		if ctx.Err() != nil {
			return l, ctx.Err()
		}
	}
}

// note takes the outcome of a look.
func (p *presence) note(l link, err error) {
	was := p.missing
	p.missing = err != nil || !l.up
	if p.tell != nil {
		p.tell(!p.missing)
	}
	switch {
	case err != nil:
		p.say("the interface does not exist; the capture waits for it (poip-agent interfaces lists those that do)")
	case !l.up:
		p.say("the interface is down; the capture waits for it to come up")
	case was:
		p.said = ""
		p.log.Info("the interface is up; the capture goes on")
	}
}

func (p *presence) say(what string) {
	if p.said != what {
		p.said = what
		p.log.Warn(what)
	}
}
