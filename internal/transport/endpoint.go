package transport

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Endpoint is where a relay takes streams in.
type Endpoint struct {
	Scheme string // "tls" or "quic"
	Host   string // a name, or an address without brackets
	Port   uint16
}

// ParseEndpoint reads "tls://relay.example:57011", "quic://[2001:db8::1]". A
// port that is left out is DefaultPort.
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "tls" && scheme != "quic" {
		return Endpoint{}, fmt.Errorf("endpoint %.200q: write tls://HOST:PORT or quic://HOST:PORT", s)
	}
	host, port, err := splitPort(rest)
	if err != nil {
		return Endpoint{}, fmt.Errorf("endpoint %.200q: %w", s, err)
	}
	if err := checkHost(host); err != nil {
		return Endpoint{}, fmt.Errorf("endpoint %.200q: %w", s, err)
	}
	return Endpoint{Scheme: scheme, Host: host, Port: port}, nil
}

func splitPort(s string) (host string, port uint16, err error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		return s[1 : len(s)-1], DefaultPort, nil
	}
	if !strings.Contains(s, ":") {
		return s, DefaultPort, nil
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("write an IPv6 address in brackets, and one port at most")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q: not a number from 1 to 65535", text)
	}
	return host, uint16(n), nil
}

// checkHost takes an address or a DNS name, and nothing that could be meant
// as a path, a user or a query.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if host == "" || len(host) > 253 {
		return fmt.Errorf("host is empty or longer than 253 bytes")
	}
	for i := range len(host) {
		c := host[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("byte %q in the host; write a name or an address, then a port, and no path", c)
		}
	}
	return nil
}

// String returns the endpoint as ParseEndpoint reads it.
func (e Endpoint) String() string { return e.Scheme + "://" + e.hostPort() }

func (e Endpoint) hostPort() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}
