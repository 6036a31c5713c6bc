package broker

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// AdminConfig is the table [relay.admin].
type AdminConfig struct {
	Listen     string   `toml:"listen"`      // address and port, or unix:PATH; "" is off
	TLS        bool     `toml:"tls"`         // with the relay's certificate
	ClientAuth string   `toml:"client_auth"` // none, cert
	Passwords  string   `toml:"passwords"`   // file of lines made by poip-relay passwd; "": none
	Hosts      []string `toml:"hosts"`       // names under which it is asked for, beside the relay's
}

// socketPath is the path of a unix socket.
func (c AdminConfig) socketPath() (string, bool) { return strings.CutPrefix(c.Listen, "unix:") }

// local says whether only this machine reaches it.
func (c AdminConfig) local() bool {
	if _, ok := c.socketPath(); ok {
		return true
	}
	host, _, _, err := parseListen(c.Listen)
	return err == nil && host.IsLoopback()
}

// localRank is what those may do who need not log in. A socket is for its
// owner alone; loopback is for everybody on this machine.
func (c AdminConfig) localRank() rank {
	if _, ok := c.socketPath(); ok {
		return operator
	}
	return viewer
}

func (c AdminConfig) check(analysts members) (errs []error) {
	if c.Listen == "" {
		return nil
	}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := c.checkListen(); err != nil {
		return []error{err}
	}
	switch c.ClientAuth {
	case "", "none":
		if !c.local() && c.Passwords == "" {
			bad("key admin.listen: %s is reached from elsewhere and asks nobody who he is: set passwords to a file of lines made by `poip-relay passwd`, or client_auth = \"cert\"; or write 127.0.0.1:57080, and reach it by ssh", c.Listen)
		}
	case "cert":
		if !c.TLS {
			bad("key admin.client_auth: without tls there is no certificate; set tls = true")
		}
		if c.Passwords != "" {
			bad("key admin.passwords: client_auth = \"cert\" says already who somebody is; remove one of them")
		}
		if !analysts.anyRank() {
			bad("key admin.client_auth: it is \"cert\", and no [[relay.analyst]] has admin = \"viewer\" or \"operator\"")
		}
	default:
		bad("key admin.client_auth: %q: want \"none\" or \"cert\"", c.ClientAuth)
	}
	if !c.local() && !c.TLS {
		bad("key admin.listen: %s is reached from elsewhere and not encrypted: set tls = true, or write 127.0.0.1:57080, and reach it by ssh", c.Listen)
	}
	for _, h := range c.Hosts {
		if h == "" || strings.ContainsAny(h, "/:@ \t") {
			bad("key admin.hosts: %q: write a name without a port", h)
		}
	}
	return errs
}

func (c AdminConfig) checkListen() error {
	if path, ok := c.socketPath(); ok {
		switch {
		case !filepath.IsAbs(path) || len(path) > 100:
			return fmt.Errorf("key admin.listen: %s: want unix: and an absolute path of at most 100 bytes", c.Listen)
		case c.TLS:
			return errors.New("key admin.tls: a unix socket stays on this machine; remove it")
		}
		return nil
	}
	_, low, high, err := parseListen(c.Listen)
	switch {
	case err != nil:
		return fmt.Errorf("key admin.listen: %w", err)
	case low != high:
		return fmt.Errorf("key admin.listen: %s is a range of ports: name one", c.Listen)
	}
	return nil
}

func (c AdminConfig) warnings() (out []string) {
	if c.Passwords != "" && !c.TLS && !strings.HasPrefix(c.Listen, "unix:") {
		out = append(out, "admin: passwords pass loopback unencrypted")
	}
	return out
}

// anyRank says whether anybody may log in by certificate.
func (r members) anyRank() bool {
	for _, m := range r {
		if m.rank != nobody {
			return true
		}
	}
	return false
}

// CheckFiles says what is wrong with the files that the configuration names.
func (c Config) CheckFiles() error {
	_, err := c.passwords()
	return err
}
