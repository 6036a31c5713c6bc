package main

import (
	"log/slog"
	"path/filepath"
	"strings"

	"poip/broker"
	"poip/internal/confine"
)

// systemFiles are what a relay reads beside its own files: names, times, and
// what the kernel tells. It runs no program.
var systemFiles = []string{
	"/proc", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/services", "/etc/protocols", "/etc/localtime", "/usr/share/zoneinfo",
}

// need is what a relay goes on to need when its sockets are bound. Of the
// configuration and passwords it is the folder, since editors replace files.
func need(path string, cfg broker.Config) confine.Need {
	n := confine.Need{Mode: cfg.Confine, Read: append([]string{filepath.Dir(path)}, systemFiles...), Write: []string{cfg.Data}}
	if filepath.IsAbs(cfg.Admin.Passwords) {
		n.Read = append(n.Read, filepath.Dir(cfg.Admin.Passwords))
	}
	if socket, ok := strings.CutPrefix(cfg.Admin.Listen, "unix:"); ok {
		n.Write = append(n.Write, filepath.Dir(socket)) // which is removed at the end
	}
	if cfg.Audit.File != "" {
		n.Write = append(n.Write, filepath.Dir(auditPath(cfg)))
	}
	if filepath.IsAbs(cfg.Admin.Passwords) {
		n.Read = append(n.Read, filepath.Dir(cfg.Admin.Passwords))
	}
	return n
}

// confineTo gives up everything that the relay does not need any more.
func confineTo(path string, cfg broker.Config, log *slog.Logger) error {
	force, err := confine.Apply(need(path, cfg))
	if err != nil {
		return err
	}
	force.Log(log)
	return nil
}
