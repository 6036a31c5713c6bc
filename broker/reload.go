package broker

import (
	"errors"
	"fmt"

	"poip/internal/audit"
)

// Reload puts another configuration in force, all of it or, when it returns an
// error, nothing. Connections that it still allows notice nothing, unless their
// listener listens elsewhere now, or speaks or writes in another way.
func (b *Broker) Reload(cfg Config) error {
	plans, err := cfg.compile()
	if err != nil {
		return err
	}
	former := b.desk.rules.Load().passwords
	before, err := b.rearrange(cfg, plans)
	if err != nil {
		return err
	}
	keys := changes(before, cfg)
	if now := b.desk.rules.Load().passwords; before.Admin.Passwords == cfg.Admin.Passwords && !now.Equal(former) {
		keys = append(keys, "admin.passwords") // of the file's content
	}
	b.log.Info("configuration reloaded", "listeners", len(plans), "changed", keys)
	b.opts.Audit.Write(audit.Entry{Event: audit.ConfigChanged, Keys: keys})
	if err := b.save(); err != nil { // it is in force all the same
		b.log.Error("streams and their ports may be forgotten at a restart", "error", err)
	}
	return nil
}

// rearrange returns the configuration that was in force.
func (b *Broker) rearrange(cfg Config, plans []plan) (before Config, err error) {
	analysts, err := cfg.compileMembers()
	if err != nil {
		return before, err
	}
	desk, err := b.newDesk(cfg)
	if err != nil {
		return before, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return before, errors.New("reload: the relay is shutting down")
	}
	if err := b.config.fixed(cfg); err != nil {
		return before, err
	}
	members := b.members.Swap(&analysts) // before the doors of new listeners are open
	former, err := b.arrange(plans)
	if err != nil {
		b.members.Store(members)
		return before, err
	}
	before, b.config = b.config, cfg
	b.desk.replace(desk)
	b.gate.Resize(cfg.Limits.Pending, cfg.Limits.PendingPerAddress)
	b.lobby.Resize(cfg.Limits.Pending, cfg.Limits.PendingPerAddress)
	b.waiting.Resize(cfg.Limits.Pending, cfg.Limits.PendingPerAddress)
	b.setRates(cfg.Intake.MaxRate)
	b.regrant(former)
	for _, st := range b.order {
		st.ring.setLimit(int(cfg.Stream.Memory))
	}
	b.sendHome()
	return before, nil
}

// ReloadRefused is told that a configuration or certificates did not come into
// force.
func (b *Broker) ReloadRefused(reason error) {
	b.opts.Audit.Refuse("reload", audit.Entry{Event: audit.ConfigRefused, Reason: reason.Error()})
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
		{"admin.tls", fmt.Sprint(c.Admin.TLS), fmt.Sprint(next.Admin.TLS)},
		{"admin.client_auth", c.Admin.ClientAuth, next.Admin.ClientAuth},
		{"stream.history (on or off)", fmt.Sprint(c.Stream.History > 0), fmt.Sprint(next.Stream.History > 0)},
		{"stream.history_key", c.Stream.HistoryKey, next.Stream.HistoryKey},
		{"audit.file", c.Audit.File, next.Audit.File},
		{"audit.size", c.Audit.Size.String(), next.Audit.Size.String()},
		{"audit.keep", fmt.Sprint(c.Audit.Keep), fmt.Sprint(next.Audit.Keep)},
	} {
		if k.now != k.next {
			errs = append(errs, errors.New("key "+k.key+" cannot change while the relay runs: restart it, or put the old value back"))
		}
	}
	return errors.Join(errs...)
}

// sendHome ends the connections of analysts that allow has no more, or deny
// has; for holders of mu.
func (b *Broker) sendHome() {
	for _, l := range b.listeners {
		for _, d := range l.doors {
			for s := range d.subscribers {
				if !l.plan.Load().admits(addrOf(s.out.conn.RemoteAddr())) {
					s.dismiss("not in allow")
				}
			}
		}
	}
}
