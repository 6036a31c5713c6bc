package transport_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"poip/auth"
	"poip/internal/poiptest"
	"poip/internal/transport"
)

// journal is a log that tests read.
type journal struct{ poiptest.Log }

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// waitFor waits until the journal says it.
func (j *journal) waitFor(t *testing.T, word string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(j.String(), word); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("log does not say %q:\n%s", word, j)
		}
	}
}

// tickets lets two servers resume each other's sessions, and counts resumptions.
type tickets struct{ resumed atomic.Int32 }

func (k *tickets) share(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.SetSessionTicketKeys([][32]byte{{7}})
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if state.DidResume {
			k.resumed.Add(1)
		}
		if verify == nil {
			return nil
		}
		return verify(state)
	}
	return cfg
}

// No bad certificate reaches a handle, over TCP or QUIC, be the session fresh
// or resumed from a server that was less strict.
func TestBadCertificatesReachNobody(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	key := poiptest.NewKey(t)
	ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
	for _, c := range []struct {
		what    string
		cert    *tls.Certificate
		resumes bool // the lenient server's tickets are good for it
	}{
		{"none", &tls.Certificate{}, false},
		{"another authority", other.Forge(key, func(*x509.Certificate) {}), false},
		{"self-signed", ca.Forge(key, func(c *x509.Certificate) { c.IsCA = true }), false},
		{"for servers", ca.Forge(key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), false},
		{"expired", ca.Forge(key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false},
		{"not yet valid", ca.Forge(key, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), false},
		{"another kind of name", ca.Forge(key, func(c *x509.Certificate) { c.URIs[0] = &url.URL{Scheme: "poip", Host: "relay", Path: "/branch-7"} }), true},
		{"a second name", ca.Forge(key, func(c *x509.Certificate) { c.URIs = append(c.URIs, auth.SensorURI("branch-8")) }), true},
		{"a subject only", ca.Forge(key, func(c *x509.Certificate) { c.URIs = nil }), true},
		{"RSA-1024", ca.Forge(weak, func(*x509.Certificate) {}), true},
	} {
		t.Run(c.what, func(t *testing.T) {
			both(t, func(t *testing.T, network string) { refusesFreshAndResumed(t, network, ca, c.cert, c.resumes) })
		})
	}
}

func refusesFreshAndResumed(t *testing.T, network string, ca *poiptest.CA, cert *tls.Certificate, resumes bool) {
	var keys tickets
	var handled atomic.Int32
	strict := relay(t, network, keys.share(ca.IntakeTLS()), transport.ServeOptions{Log: slog.New(slog.DiscardHandler)},
		func(context.Context, transport.Conn) { handled.Add(1) })
	lenient := ca.IntakeTLS()
	lenient.VerifyConnection = nil
	if !resumes {
		lenient.ClientAuth = tls.RequestClientCert
	}
	giver := relay(t, network, keys.share(lenient), transport.ServeOptions{}, func(_ context.Context, c transport.Conn) {
		c.Write([]byte("a ticket was sent before this"))
	})

	cfg := ca.AgentTLS("other")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	cfg.ServerName = "relay.test" // the cache's key
	refused(t, dialer(t, cfg.Clone()), strict)

	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	d := dialer(t, cfg)
	c, err := d.Open(t.Context(), giver)
	must(t, err)
	send(t, c, []byte{1})
	_, err = io.ReadAll(c)
	must(t, err)
	must(t, c.Close())
	refused(t, d, strict)
	if resumes && keys.resumed.Load() == 0 {
		t.Error("the session was not resumed, so nothing was proven")
	}
	if n := handled.Load(); n > 0 {
		t.Errorf("%d handles were called", n)
	}
}

// refused opens a stream that must come to nothing, in words that tell why.
func refused(t *testing.T, d *transport.Dialer, ep transport.Endpoint) {
	t.Helper()
	c, err := d.Open(t.Context(), ep)
	if err == nil { // in TLS 1.3 a client hears of it after its own handshake
		c.Write([]byte{1})
		c.Flush()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

func TestRefusalsAreLoggedQuotedAndLimited(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca, other := poiptest.NewCA(t), poiptest.NewCA(t)
		var log journal
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{Log: log.logger()}, func(context.Context, transport.Conn) {})
		hostile := other.Forge(poiptest.NewKey(t), func(c *x509.Certificate) { c.Subject.CommonName = "\x1b[2J\nlevel=ERROR" })
		cfg := ca.AgentTLS("other")
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return hostile, nil }
		d := dialer(t, cfg)
		for range 30 {
			refused(t, d, ep)
		}
		log.waitFor(t, "unknown authority")
		if lines := strings.Count(log.String(), "\n"); lines > 15 {
			t.Errorf("30 refusals made %d lines", lines)
		}
		if strings.Contains(log.String(), "\x1b") || strings.Contains(log.String(), "\nlevel") {
			t.Errorf("raw bytes in the log: %q", log.String())
		}
	})
}

// Connections that say nothing take no place for long from one that does.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	ca := poiptest.NewCA(t)
	ep := relay(t, "tls", ca.IntakeTLS(), transport.ServeOptions{MaxPending: 20, MaxPendingPerAddr: 10, Log: slog.New(slog.DiscardHandler)},
		func(_ context.Context, c transport.Conn) { io.Copy(c, c) })
	addr := strings.TrimPrefix(ep.String(), "tls://")
	for i := range 100 {
		c, err := net.Dial("tcp", addr)
		must(t, err)
		defer c.Close()
		if i%5 == 0 {
			c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		}
	}
	time.Sleep(1200 * time.Millisecond) // places are kept for a second
	start := time.Now()
	c, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
	must(t, err)
	must(t, c.Close())
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("an honest agent waited %s", took)
	}
}

func TestSilentConnectionsAreEnded(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		var log journal
		ep := relay(t, network, ca.IntakeTLS(), transport.ServeOptions{HandshakeTimeout: 100 * time.Millisecond, Log: log.logger()}, nil)
		if network == "quic" { // it proves its address by the answer to a Retry, and hears nothing after that
			if err := dialOver(t, &mute{hears: 1}, ep, ca.AgentTLS("branch-7"), 500*time.Millisecond); err == nil {
				t.Error("it got in")
			}
			log.waitFor(t, "timeout: ")
			return
		}
		c, err := net.Dial("tcp", strings.TrimPrefix(ep.String(), "tls://"))
		must(t, err)
		defer c.Close()
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("got %v", err)
		}
		log.waitFor(t, "no handshake within 100ms")
	})
}

// flaky fails to accept for a while, as when files run out.
type flaky struct {
	net.Listener
	until time.Time
	tries atomic.Int32
}

func (f *flaky) Accept() (net.Conn, error) {
	f.tries.Add(1)
	if time.Now().Before(f.until) {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptErrorsPauseAndPass(t *testing.T) {
	ca := poiptest.NewCA(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ln := &flaky{Listener: inner, until: time.Now().Add(300 * time.Millisecond)}
	ctx, cancel := context.WithCancel(context.Background())
	var log journal
	var server sync.WaitGroup
	server.Go(func() {
		transport.ServeTLS(ctx, ln, ca.IntakeTLS(), transport.ServeOptions{Log: log.logger()}, func(_ context.Context, c transport.Conn) {})
	})
	defer server.Wait()
	defer cancel()
	ep := transport.Endpoint{Scheme: "tls", Host: "127.0.0.1", Port: uint16(inner.Addr().(*net.TCPAddr).Port)}
	c, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
	must(t, err)
	must(t, c.Close())
	if n := ln.tries.Load(); n > 12 {
		t.Errorf("%d tries in 300 ms", n)
	}
	log.waitFor(t, "too many open files")
}

// When ctx ends nobody else gets in, but handles end in their own time.
func TestServingEndsWhenItsHandlesHave(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		ca := poiptest.NewCA(t)
		ctx, cancel := context.WithCancel(context.Background())
		entered, leave, served := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		handle := func(ctx context.Context, c transport.Conn) {
			close(entered)
			<-ctx.Done()
			<-leave
			if _, err := c.Write([]byte("good bye")); err != nil {
				t.Errorf("write: %v", err)
			}
		}
		ep := transport.Endpoint{Scheme: network, Host: "127.0.0.1"}
		if network == "tls" {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			ep.Port = uint16(ln.Addr().(*net.TCPAddr).Port)
			go func() { served <- transport.ServeTLS(ctx, ln, ca.IntakeTLS(), transport.ServeOptions{}, handle) }()
		} else {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			must(t, err)
			ep.Port = uint16(pc.LocalAddr().(*net.UDPAddr).Port)
			go func() { served <- transport.ServeQUIC(ctx, pc, ca.IntakeTLS(), transport.ServeOptions{}, handle) }()
		}
		c, err := dialer(t, ca.AgentTLS("branch-7")).Open(t.Context(), ep)
		must(t, err)
		send(t, c, []byte{1})
		<-entered
		cancel()
		eventuallyRefused(t, dialer(t, ca.AgentTLS("branch-8")), ep)
		select {
		case err := <-served:
			t.Fatalf("it returned before its handle: %v", err)
		default:
		}
		close(leave)
		got, err := io.ReadAll(c)
		if string(got) != "good bye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		must(t, c.Close())
		must(t, <-served)
	})
}

func eventuallyRefused(t *testing.T, d *transport.Dialer, ep transport.Endpoint) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		c, err := d.Open(ctx, ep)
		cancel()
		if err != nil {
			return
		}
		c.Abort()
	}
	t.Error("others still get in")
}
