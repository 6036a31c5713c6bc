package capture

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Permitted reports whether this process may capture from interfaces now. The
// error says how to grant it.
func Permitted() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0 receives nothing
	if err != nil {
		return openError(err)
	}
	return unix.Close(fd)
}

// openError explains why a packet socket could not be opened.
func openError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("open packet socket: %w: capturing needs CAP_NET_RAW: grant it by 'sudo setcap cap_net_raw+ep %s', "+
			"by AmbientCapabilities=CAP_NET_RAW in the systemd unit, or run as root", err, executable())
	case errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf(`open packet socket: %w: this kernel has no packet sockets; capture by command = ["tcpdump", "-U", "-w", "-"] elsewhere`, err)
	}
	return fmt.Errorf("open packet socket: %w", err)
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "$(which poip-agent)"
	}
	return path
}
