package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"poip/internal/wire"
)

// run announces the stream, then binds, so that no packet comes before.
func (t *tap) run(ctx context.Context, open func(Info) Sink) error {
	t.sink = open(Info{LinkType: t.linkType, Snaplen: uint32(t.snaplen), Description: t.spec.Name})
	t.counted, t.paused = time.Now(), time.Now()
	if !(prologue{linkType: t.linkType}).canExclude() && t.spec.Exclude != nil {
		t.presence.log.Warn("the agent's own uplink is not excluded from this capture: its link type is not understood", "link_type", t.linkType.String())
	}
	if err := t.follow(); err != nil {
		return err
	}
	defer t.sink.Flush()
	for {
		more := t.ring.drain(&t.delivery)
		if ctx.Err() != nil {
			return t.finish(ctx)
		}
		if time.Since(t.counted) >= time.Second {
			t.countDrops()
		}
		if more {
			continue
		}
		t.sink.Flush()
		if err := t.pause(); err != nil {
			t.countDrops()
			return err
		}
	}
}

// countDrops reports what the kernel dropped. Statistics that cannot be read
// are a matter of a broken socket, which waiting on it will tell.
func (t *tap) countDrops() {
	var lost uint64
	for _, lane := range t.lanes {
		n, err := lane.drops()
		if err == nil {
			lost += n
		}
	}
	if lost > 0 {
		t.sink.Lost(lost, wire.CauseKernelDrop)
	}
	t.counted, t.countedN = time.Now(), t.packets
}

// finish takes no more packets, delivers those that the kernel has taken and
// ends the capture.
func (t *tap) finish(ctx context.Context) error {
	t.leave()
	t.leave = nil
	for _, lane := range t.lanes {
		_ = lane.attach(rejectAll)
	}
	for deadline := time.Now().Add(5 * blockTimeout); t.ring.filling() && time.Now().Before(deadline); {
		time.Sleep(blockTimeout / 4)
	}
	t.ring.drain(&t.delivery)
	t.countDrops()
	return ctx.Err()
}

// rejectAll is the filter of a capture that ends.
var rejectAll = []bpf.RawInstruction{{Op: opRetK}}

// A capture in low latency takes a short nap instead of waiting for the very
// next packet while more than napRate packets a second come: at such rates
// nobody misses half a millisecond, and a wake-up for every packet would cost
// more than all the rest.
const (
	napRate = 20_000
	nap     = 500 * time.Microsecond
)

// pause waits until there is something to do.
func (t *tap) pause() error {
	now := time.Now()
	came, since := t.packets-t.pausedN, now.Sub(t.paused)
	t.paused, t.pausedN = now, t.packets
	var fds [4]unix.PollFd
	if t.spec.Latency == LatencyLow && float64(came) > napRate*since.Seconds() {
		return t.waker.wait(fds[:1], nap)
	}
	n := 1
	for _, lane := range t.lanes {
		fds[n] = unix.PollFd{Fd: int32(lane.fd), Events: unix.POLLIN}
		n++
	}
	if t.presence.missing {
		fds[n] = unix.PollFd{Fd: int32(t.watch.fd), Events: unix.POLLIN}
		n++
	}
	if err := t.waker.wait(fds[:n], t.patience(now)); err != nil {
		return err
	}
	return t.attend(fds[1 : 1+len(t.lanes)])
}

// patience is how long to wait at most: for drops to be counted within a
// second, if there can be any, and for an interface that is not there to be
// looked for once more.
func (t *tap) patience(now time.Time) time.Duration {
	switch {
	case t.presence.missing:
		return time.Second
	case t.packets != t.countedN:
		return max(0, t.counted.Add(time.Second).Sub(now))
	}
	return forever
}

// attend looks after errors of the sockets and changes of the interface.
func (t *tap) attend(sockets []unix.PollFd) error {
	changed := t.presence.missing
	for k, fd := range sockets {
		if fd.Revents&^unix.POLLIN == 0 {
			continue
		}
		// Taking the error is what keeps the next wait from returning at once.
		err := t.lanes[k].failure()
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			return fmt.Errorf("capture on %s: %w", t.spec.Name, err)
		}
		changed = true
	}
	if changed {
		return t.follow()
	}
	return nil
}

// follow binds the sockets to the interface if it is a new one, and notes
// whether it is there.
func (t *tap) follow() error {
	t.watch.drain()
	l, err := t.watch.look()
	if err == nil && l.linkType != t.linkType {
		return fmt.Errorf("capture on %s: its link type has changed from %v to %v", t.spec.Name, t.linkType, l.linkType)
	}
	if err == nil {
		err = t.bind(l.index)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	t.presence.note(l, err)
	return nil
}

// bind binds the sockets that are not bound to the interface yet, or not any
// more.
func (t *tap) bind(index int) error {
	for k, lane := range t.lanes {
		if lane.boundTo() == index {
			continue
		}
		if t.bound && k == 0 { // what came by since the interface is there again is lost
			t.sink.Lost(0, wire.CauseCaptureRestart)
		}
		if err := lane.bind(index, t.spec.Promiscuous && k == 0); err != nil {
			return fmt.Errorf("capture on %s: %w", t.spec.Name, err)
		}
	}
	t.bound = true
	return nil
}
