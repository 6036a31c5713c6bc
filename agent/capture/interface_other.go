//go:build !linux

package capture

import (
	"context"
	"errors"

	"poip/internal/pcap"
)

// errNoInterfaces is what there is instead of interface captures.
var errNoInterfaces = errors.New(`capture on an interface: only Linux has that here; let another program do it: ` +
	`command = ["tcpdump", "-U", "-w", "-", "-i", "INTERFACE"]`)

// Run fails: only Linux captures from interfaces by itself.
func (i *Interface) Run(context.Context, func(Info) Sink) error { return errNoInterfaces }

// Prepare fails like Run.
func (i *Interface) Prepare(context.Context) error { return errNoInterfaces }

// preparation is for Linux.
type preparation struct{}

// Permitted reports why this process may not capture from interfaces.
func Permitted() error { return errNoInterfaces }

// Interfaces fails: only Linux captures from interfaces by itself.
func Interfaces() ([]InterfaceState, error) { return nil, errNoInterfaces }

func linkTypeNow(string) (pcap.LinkType, error) { return 0, errNoInterfaces }
