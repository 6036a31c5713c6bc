package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
)

// Dialer opens streams to relays. Its fields are set once, before the first Open.
type Dialer struct {
	// TLS is the agent's certificate and whom it trusts. Where ServerName is
	// empty, the endpoint's host has to be in the relay's certificate.
	TLS *tls.Config

	// CurrentTLS, if set, is asked in place of TLS at every dial. Streams share
	// a QUIC connection for as long as it returns the same.
	CurrentTLS func() *tls.Config

	// Protocol is the ALPN name to ask for; empty: ALPN.
	Protocol string

	// CAFile is where the trusted authorities were read from; errors name it.
	CAFile string

	// Congestion names the TCP congestion control. "auto" is bbr where the
	// kernel lets us have it, and else what the system uses, as "" is.
	Congestion string

	// Resolved, if set, is told all addresses of an endpoint before a packet
	// goes to any of them.
	Resolved func(addrs []netip.AddrPort)

	Log *slog.Logger // default: slog.Default()

	congested sync.Once // what "auto" got has been logged

	mu    sync.Mutex
	links map[Endpoint]*slot // guarded by mu; QUIC connections, made by slotOf
}

// Open opens a byte stream. Streams to one QUIC endpoint share a connection.
// A relay that refuses our certificate says so only after that, so an error
// of the first Read may be one of these too.
func (d *Dialer) Open(ctx context.Context, ep Endpoint) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	open := d.openTLS
	if ep.Scheme == "quic" {
		open = d.openQUIC
	}
	conn, err := open(ctx, ep)
	if err != nil {
		return nil, d.explain(ep, err)
	}
	return conn, nil
}

func (d *Dialer) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.Default()
}

func (d *Dialer) protocol() string {
	if d.Protocol != "" {
		return d.Protocol
	}
	return ALPN
}

// currentTLS is what the next connection is to be opened with.
func (d *Dialer) currentTLS() *tls.Config {
	if d.CurrentTLS != nil {
		return d.CurrentTLS()
	}
	return d.TLS
}

// tlsConfig is ours, for one endpoint.
func (d *Dialer) tlsConfig(ep Endpoint, current *tls.Config) *tls.Config {
	cfg := current.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = strings.Cut(ep.Host, "%") // certificates know no zones
	}
	cfg.NextProtos = []string{d.protocol()}
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

func (d *Dialer) openTLS(ctx context.Context, ep Endpoint) (Conn, error) {
	addrs, err := d.resolve(ctx, ep)
	if err != nil {
		return nil, err
	}
	conn, err := race(ctx, addrs, d.dialTCP, func(c net.Conn) { c.Close() })
	if err != nil {
		return nil, err
	}
	cork := NewCork(conn, GatherSize)
	secured := tls.Client(cork, d.tlsConfig(ep, d.currentTLS()))
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	if got := secured.ConnectionState().NegotiatedProtocol; got != d.protocol() {
		conn.Close()
		return nil, fmt.Errorf("%w %s", errNoALPN, d.protocol())
	}
	congestion := congestionOf(conn)
	if d.Congestion == "auto" {
		d.congested.Do(func() { d.log().Info("congestion control of the kernel", "wanted", "bbr", "got", congestion) })
	}
	return newTLSConn(secured, cork, congestion), nil
}

func (d *Dialer) dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: keepAlive,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if e := raw.Control(func(fd uintptr) {
				_ = setUserTimeout(fd, dialedTimeout)
				err = setCongestion(fd, d.Congestion)
			}); e != nil {
				return e
			}
			return err
		},
	}
	return dialer.DialContext(ctx, "tcp", addr.String())
}

// resolve finds the endpoint's addresses and announces them.
func (d *Dialer) resolve(ctx context.Context, ep Endpoint) ([]netip.AddrPort, error) {
	ips, err := lookup(ctx, ep.Host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), ep.Port)
	}
	if d.Resolved != nil {
		d.Resolved(addrs)
	}
	return addrs, nil
}

func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Close ends all shared connections. Streams on them break.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.links {
		for _, l := range append(s.former, s.link) {
			if l != nil {
				l.shut()
			}
		}
	}
	d.links = nil
	return nil
}

var errNoALPN = errors.New("it speaks TLS, but not")
