package capture

import "poip/internal/pcap"

// InterfaceState is an interface that can be captured from, as it is now.
type InterfaceState struct {
	Name     string
	Index    int           // 0 is AnyInterface
	LinkType pcap.LinkType // of captures on it
	MTU      int           // in bytes; 0 is AnyInterface
	Up       bool          // switched on
	Running  bool          // and connected
}
