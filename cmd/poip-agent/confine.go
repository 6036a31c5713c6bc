package main

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"poip/agent"
	"poip/internal/confine"
	"poip/internal/transport"
)

// What an agent reads beside its own files: where it finds names and times, and
// what the kernel tells; and where tcpdump lives, which compiles filters.
var (
	systemFiles = []string{
		"/proc", "/sys/class/net", "/sys/devices",
		"/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/ethers", "/etc/networks",
		"/etc/localtime", "/etc/passwd", "/etc/group",
		"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload",
	}
	programs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix", "/gnu"}
)

// need is what an agent goes on to need when its captures are prepared.
func need(cfg agent.Config) confine.Need {
	n := confine.Need{
		Mode: cfg.Confine, User: cfg.User,
		Read: slices.Concat(systemFiles, resolverFiles(cfg.Relay)), Run: programs, Write: []string{cfg.Data},
	}
	for _, c := range cfg.Captures {
		if c.File != "" {
			n.Read = append(n.Read, c.File)
		}
		n.Commands = n.Commands || len(c.Command) > 0
	}
	return n
}

// resolverFiles are where the name servers stand, for relays that are known by
// name. The file is replaced when the network changes, so it takes its folder.
func resolverFiles(relays agent.Relays) []string {
	const file = "/etc/resolv.conf"
	named := func(r transport.Endpoint) bool {
		_, err := netip.ParseAddr(r.Host)
		return err != nil && r.Host != "localhost"
	}
	if !slices.ContainsFunc(relays, named) {
		return []string{file}
	}
	folders := []string{filepath.Dir(file)}
	if real, err := filepath.EvalSymlinks(file); err == nil && filepath.Dir(real) != folders[0] {
		folders = []string{file, filepath.Dir(real)} // as of systemd-resolved
	}
	return folders
}

// confineTo gives up everything that the agent does not need any more.
func confineTo(cfg agent.Config, log *slog.Logger) error {
	force, err := confine.Apply(need(cfg))
	if err != nil {
		return err
	}
	force.Log(log)
	return nil
}
