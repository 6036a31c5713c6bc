package transport_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"poip/internal/poiptest"
	"poip/internal/transport"
)

// peer accepts connections on loopback and does something with each.
func peer(t *testing.T, do func(net.Conn)) transport.Endpoint {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				do(c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return transport.Endpoint{Scheme: "tls", Host: "127.0.0.1", Port: uint16(ln.Addr().(*net.TCPAddr).Port)}
}

// secured is a peer that speaks TLS as cfg says.
func secured(t *testing.T, cfg *tls.Config) transport.Endpoint {
	return peer(t, func(c net.Conn) { io.Copy(io.Discard, tls.Server(c, cfg)) })
}

// A dial that fails says what failed, on what, and what to do about it.
func TestDialErrorsHoldTheRemedy(t *testing.T) {
	ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
	relayCert := func(change func(*x509.Certificate)) *tls.Config {
		cfg := ca.IntakeTLS()
		cfg.GetCertificate = nil
		cfg.Certificates = []tls.Certificate{*ca.Forge(poiptest.NewKey(t), func(c *x509.Certificate) {
			c.URIs, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
			change(c)
		})}
		return cfg
	}
	misnamed := relayCert(func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"relay.example", "b.example"}, []net.IP{net.IPv4(192, 0, 2, 1)}
	})
	nameless := relayCert(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })
	hostile := relayCert(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"\x1b[2J\nrm"}, nil })
	expired := relayCert(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early := relayCert(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	noALPN, otherALPN, old := ca.IntakeTLS(), ca.IntakeTLS(), ca.IntakeTLS()
	noALPN.NextProtos, noALPN.VerifyConnection = nil, nil
	otherALPN.NextProtos = []string{"h2"}
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed.Close()
	deafUDP, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer deafUDP.Close()

	for _, c := range []struct {
		what  string
		ep    func(t *testing.T) transport.Endpoint
		words []string
	}{
		{"unknown authority", func(t *testing.T) transport.Endpoint { return secured(t, other.IntakeTLS()) }, []string{"unknown authority", "copy the relay's ca.pem to /etc/poip/ca.pem"}},
		{"another name", func(t *testing.T) transport.Endpoint { return secured(t, misnamed) }, []string{`"relay.example", "b.example", 192.0.2.1`, "relay_name"}},
		{"no name", func(t *testing.T) transport.Endpoint { return secured(t, nameless) }, []string{"no name at all"}},
		{"a name with escapes", func(t *testing.T) transport.Endpoint { return secured(t, hostile) }, []string{`\x1b[2J\n`}},
		{"expired", func(t *testing.T) transport.Endpoint { return secured(t, expired) }, []string{"has expired on", "clock"}},
		{"not yet valid", func(t *testing.T) transport.Endpoint { return secured(t, early) }, []string{"is valid from", "clock"}},
		{"no protocol name", func(t *testing.T) transport.Endpoint { return secured(t, noALPN) }, []string{"not poip/1", "intake"}},
		{"another protocol", func(t *testing.T) transport.Endpoint { return secured(t, otherALPN) }, []string{"does not take streams (poip/1)"}},
		{"TLS 1.2", func(t *testing.T) transport.Endpoint { return secured(t, old) }, []string{"version"}},
		{"no TLS", func(t *testing.T) transport.Endpoint {
			return peer(t, func(c net.Conn) { c.Write([]byte("\xd4\xc3\xb2\xa1\x02\x00\x04\x00")); io.Copy(io.Discard, c) })
		}, []string{"no TLS there", "57011"}},
		{"nobody there", func(*testing.T) transport.Endpoint {
			return transport.Endpoint{Scheme: "tls", Host: "127.0.0.1", Port: uint16(closed.Addr().(*net.TCPAddr).Port)}
		}, []string{"refused", "is the relay running"}},
		{"no answer", func(t *testing.T) transport.Endpoint { return peer(t, func(c net.Conn) { io.Copy(io.Discard, c) }) }, []string{"no answer", "firewall"}},
		{"no answer over UDP", func(*testing.T) transport.Endpoint {
			return transport.Endpoint{Scheme: "quic", Host: "127.0.0.1", Port: uint16(deafUDP.LocalAddr().(*net.UDPAddr).Port)}
		}, []string{"no answer over UDP", "tls://"}},
		{"unknown authority over QUIC", func(t *testing.T) transport.Endpoint {
			return relay(t, "quic", other.IntakeTLS(), transport.ServeOptions{Log: new(journal).logger()}, nil)
		}, []string{"unknown authority", "/etc/poip/ca.pem"}},
		{"another name over QUIC", func(t *testing.T) transport.Endpoint {
			return relay(t, "quic", misnamed, transport.ServeOptions{Log: new(journal).logger()}, nil)
		}, []string{"relay_name"}},
		{"another protocol over QUIC", func(t *testing.T) transport.Endpoint {
			return relay(t, "quic", otherALPN, transport.ServeOptions{Log: new(journal).logger()}, nil)
		}, []string{"does not take streams (poip/1)"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			ep := c.ep(t)
			d := dialer(t, ca.AgentTLS("branch-7"))
			d.CAFile = "/etc/poip/ca.pem"
			ctx, cancel := context.WithCancel(t.Context())
			if strings.HasPrefix(c.what, "no answer") {
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
			}
			defer cancel()
			_, err := d.Open(ctx, ep)
			for _, word := range append(c.words, "dial "+ep.String()) {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("error %v\ndoes not say %q", err, word)
				}
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("not fit for a terminal: %q", err)
			}
		})
	}
}

// Whoever filters the uplink out of a capture hears of an address before the
// first packet goes there, at every dial.
func TestResolvedComesFirst(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		began := make(chan struct{}, 10)
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{}, func(context.Context, transport.Conn) { began <- struct{}{} })
		ep.Host = "localhost"
		d := dialer(t, ca.AgentTLS("branch-7"))
		var told []netip.AddrPort
		d.Resolved = func(addrs []netip.AddrPort) {
			told = append(told, addrs...)
			if len(began) > 0 {
				t.Error("the relay was there first")
			}
		}
		for range 2 {
			told = nil
			c, err := d.Open(t.Context(), ep)
			must(t, err)
			send(t, c, []byte{1})
			to := netip.MustParseAddrPort(c.RemoteAddr().String())
			if !slices.Contains(told, netip.AddrPortFrom(to.Addr().Unmap(), to.Port())) {
				t.Errorf("dialed %s, told %v", to, told)
			}
			<-began
			must(t, c.Close())
		}
	})
}

// A relay that refuses a certificate says so only after the dial. The error
// of the first Read tells what it is about.
func TestARefusedCertificateIsExplained(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{Log: new(journal).logger()}, nil)
		cfg := ca.AgentTLS("branch-7")
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		c, err := dialer(t, cfg).Open(t.Context(), ep)
		if err == nil {
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = c.Read(make([]byte, 1))
			c.Abort()
		}
		for _, word := range []string{"the relay refuses our certificate", "certificate required", "poip-relay issue"} {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("error %v does not say %q", err, word)
			}
		}
	})
}

func TestIPv6(t *testing.T) {
	ca := poiptest.NewCA(t)
	ctx, cancel := context.WithCancel(t.Context())
	var servers sync.WaitGroup
	defer servers.Wait()
	defer cancel()
	echo := func(_ context.Context, c transport.Conn) { io.Copy(c, c) }
	ln, err := net.Listen("tcp6", "[::1]:0")
	must(t, err)
	pc, err := net.ListenPacket("udp6", "[::1]:0")
	must(t, err)
	servers.Go(func() { transport.ServeTLS(ctx, ln, ca.IntakeTLS(), transport.ServeOptions{}, echo) })
	servers.Go(func() { transport.ServeQUIC(ctx, pc, ca.IntakeTLS(), transport.ServeOptions{}, echo) })
	d := dialer(t, ca.AgentTLS("branch-7"))
	for _, url := range []string{"tls://" + ln.Addr().String(), "quic://" + pc.LocalAddr().String()} {
		ep, err := transport.ParseEndpoint(url)
		must(t, err)
		c, err := d.Open(t.Context(), ep)
		must(t, err)
		send(t, c, []byte{1})
		must(t, c.Close())
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := dialer(t, ca.AgentTLS("branch-7")).Open(ctx, ep); err == nil {
			t.Error("it opened")
		}
	})
}
