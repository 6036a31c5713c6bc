package broker

import (
	"errors"
	"time"
)

// Reload puts another configuration in force, all of it or, when it returns an
// error, nothing. Connections that it still allows notice nothing.
func (b *Broker) Reload(cfg Config) error {
	plans, err := cfg.compile()
	if err != nil {
		return err
	}
	if err := b.rearrange(cfg, plans); err != nil {
		return err
	}
	b.log.Info("configuration reloaded", "listeners", len(plans))
	if err := b.save(); err != nil { // it is in force all the same
		b.log.Error("streams and their ports may be forgotten at a restart", "error", err)
	}
	return nil
}

func (b *Broker) rearrange(cfg Config, plans []plan) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return errors.New("reload: the relay is shutting down")
	}
	if err := b.config.fixed(cfg); err != nil {
		return err
	}
	if err := b.arrange(plans); err != nil {
		return err
	}
	b.config = cfg
	for _, st := range b.order {
		st.ring.setLimit(int(cfg.Stream.Memory))
	}
	b.sendHome()
	return nil
}

// fixed holds what cannot change while the relay runs against the new values.
func (c Config) fixed(next Config) error {
	var errs []error
	for _, k := range []struct{ key, now, next string }{
		{"name", c.Name, next.Name},
		{"data", c.Data, next.Data},
		{"intake.tcp", c.Intake.TCP, next.Intake.TCP},
		{"intake.quic", c.Intake.QUIC, next.Intake.QUIC},
		{"admin.listen", c.Admin.Listen, next.Admin.Listen},
	} {
		if k.now != k.next {
			errs = append(errs, errors.New("key "+k.key+" cannot change while the relay runs: restart it, or put the old value back"))
		}
	}
	return errors.Join(errs...)
}

// sendHome ends the connections of analysts that allow has no more; for
// holders of mu.
func (b *Broker) sendHome() {
	for _, l := range b.listeners {
		for _, d := range l.doors {
			for s := range d.subscribers {
				if !l.plan.Load().admits(addrOf(s.out.conn.RemoteAddr())) {
					s.command(orderCut, time.Now().Add(time.Second))
				}
			}
		}
	}
}
