package broker

import (
	"errors"
	"fmt"

	"poip/auth"
	"poip/internal/config"
)

// This file is what strangers and peers may take, beside the intake's own
// limits.

// LimitsConfig is the table [relay.limits]: what strangers may take, who have
// not proven who they are. It holds for agents, for analysts and at the
// administration each.
type LimitsConfig struct {
	Pending           int `toml:"pending"`             // connections in all
	PendingPerAddress int `toml:"pending_per_address"` // and from one address; of IPv6, one /64
}

func (c LimitsConfig) check() error {
	if c.Pending < 1 || c.PendingPerAddress < 1 || c.PendingPerAddress > c.Pending {
		return errors.New("limits: pending and pending_per_address are at least 1, and the former is not less than the latter")
	}
	return nil
}

// AuditConfig is the table [relay.audit].
type AuditConfig struct {
	File string      `toml:"file"` // below the data folder, or an absolute path; "" is off
	Size config.Size `toml:"size"` // of a file, at which the next begins
	Keep int         `toml:"keep"` // files beside the one in use
}

func (c AuditConfig) check() error {
	if c.File != "" && (c.Size < 64<<10 || c.Keep < 1 || c.Keep > 1000) {
		return fmt.Errorf("audit: want size = \"64KiB\" or more, it is %s, and keep = 1 to 1000, it is %d", c.Size, c.Keep)
	}
	return nil
}

// checkRate wants a batch to pass within a few seconds.
func (c IntakeConfig) checkRate() error {
	if c.MaxRate != 0 && c.MaxRate < 256<<10 {
		return fmt.Errorf("key intake.max_rate: %s: want \"0\", which is no limit, or 256KiB and more (a second)", c.MaxRate)
	}
	return nil
}

// checkAccess says what is wrong with who may come in, and how many.
func (c Config) checkAccess() (errs []error) {
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	analysts, err := c.compileMembers()
	keep(err)
	keep(c.Limits.check())
	keep(c.Audit.check())
	keep(c.Intake.checkRate())
	errs = append(errs, c.Admin.check(analysts)...)
	for i, l := range c.Listeners {
		if err := l.checkClientAuth(len(c.Analysts) > 0); err != nil {
			errs = append(errs, fmt.Errorf("listener %d %q: %w", i+1, l.Name, err))
		}
	}
	return errs
}

// checkClientAuth wants it said whom a TLS listener lets in: a key that was
// lost must not open to anybody what was for those with a certificate.
func (l ListenerConfig) checkClientAuth(analysts bool) error {
	p := plan{config: l}
	if p.compileListen() != nil || !l.TLS {
		return nil
	}
	switch {
	case l.ClientAuth == "" && (analysts || !p.host.IsLoopback()):
		return errors.New("key client_auth is missing: write \"cert\" for those of [[relay.analyst]] only, or \"none\" for whoever is in allow")
	case l.ClientAuth == "cert" && !analysts:
		return errors.New("key client_auth: it is \"cert\", and no [[relay.analyst]] says who may read what: add one for each, with name and streams")
	}
	return nil
}

// accessWarnings are about a listener, beside the grants of analysts.
func (c Config) accessWarnings(l ListenerConfig) (out []string) {
	if len(c.Analysts) == 0 {
		return nil
	}
	warn := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("listener %q: ", l.Name)+fmt.Sprintf(format, args...))
	}
	if l.ClientAuth != "cert" {
		warn("client_auth is none: grants of [[relay.analyst]] do not hold here; whoever is in allow reads all of its streams")
		return out
	}
	p, err := l.compile()
	analysts, errAnalysts := c.compileMembers()
	if err != nil || errAnalysts != nil {
		return nil
	}
	for _, m := range analysts {
		if m.grant.Meets(auth.GrantOf(p.patterns...)) {
			return nil
		}
	}
	warn("no analyst is granted any of its streams: nobody can read here")
	return out
}
