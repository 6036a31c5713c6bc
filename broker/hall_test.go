package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"poip/internal/audit"
	"poip/internal/poiptest"
	"poip/internal/wire"
)

// adminClient asks the administration over TLS.
func (w *world) adminClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: patience}
}

func (w *world) adminURL(path string) string { return "https://" + w.admin.Addr().String() + path }

// besiege keeps so many connections from an address open at the administration,
// which greet says something on, until ctx ends. Who is cut off comes again.
func (w *world) besiege(ctx context.Context, address string, count int, greet func(net.Conn) net.Conn) {
	var all sync.WaitGroup
	defer all.Wait()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: time.Second}
	for range count {
		all.Go(func() {
			for ctx.Err() == nil {
				conn, err := dialer.DialContext(ctx, "tcp", w.admin.Addr().String())
				if err == nil {
					stop := context.AfterFunc(ctx, func() { conn.Close() })
					io.Copy(io.Discard, greet(conn))
					stop()
					conn.Close()
				}
				time.Sleep(500 * time.Millisecond)
			}
		})
	}
}

// evictAfter is for how long a newcomer keeps its place at the gate.
const evictAfter = 100 * time.Millisecond

// TestStrangersKeepNoOperatorOut: many who connect to the administration, and
// say nothing, or less than it takes to be known, and come again when they are
// cut off. Without the gate in hall.Accept they hold all connections.
func TestStrangersKeepNoOperatorOut(t *testing.T) {
	file := passwordFile(t, passwordLine("olaf", "operator", "olaf's secret"))
	w := newWorld(t, func(c *Config) { c.Admin.TLS, c.Admin.Passwords, c.Limits = true, file, LimitsConfig{64, 16} })
	shaken := func(say string) func(net.Conn) net.Conn {
		return func(conn net.Conn) net.Conn {
			secured := tls.Client(conn, w.with(nil))
			io.WriteString(secured, say)
			return secured
		}
	}
	ctx, end := context.WithCancel(t.Context())
	var siege sync.WaitGroup
	for i, greet := range []func(net.Conn) net.Conn{
		func(conn net.Conn) net.Conn { return conn },
		shaken(""),
		shaken("GET /metrics HTTP/1.1\r\nHost: 127"),
		shaken("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
	} {
		for j := range 2 {
			siege.Go(func() { w.besiege(ctx, fmt.Sprintf("127.0.3.%d", 1+2*i+j), 20, greet) })
		}
	}
	defer siege.Wait()
	defer end()
	time.Sleep(time.Second)
	cut := 0
	for i := range 10 {
		begin := time.Now()
		for !w.asksAs("olaf", "olaf's secret") {
			cut++ // on a busy machine it may be the oldest stranger itself
			time.Sleep(evictAfter)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("request %d is answered after %s", i, took)
		}
	}
	if cut > 5 {
		t.Errorf("an operator was cut off %d times", cut)
	}
	if !strings.Contains(w.logs.String(), "too many connections that have not proven themselves") {
		t.Error("strangers are not bounded")
	}
}

// asksAs says whether a request was answered.
func (w *world) asksAs(user, password string) bool {
	r, err := http.NewRequest("GET", w.adminURL("/metrics"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.SetBasicAuth(user, password)
	answer, err := w.adminClient(w.with(nil)).Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err == nil && answer.StatusCode == 200
}

// TestWhoIsLoggedInStaysSo: an address that has failed too often is refused,
// but not on a connection on which the same password was right before. On any
// other, the answer to a right one would tell a guesser without a limit that it
// is right. Without the look at waiter.login in desk.login a neighbor behind the
// same address logs an operator out.
func TestWhoIsLoggedInStaysSo(t *testing.T) {
	file := passwordFile(t, passwordLine("olaf", "operator", "olaf's secret"), passwordLine("vera", "viewer", "vera's secret"))
	w := newWorld(t, func(c *Config) { c.Admin.Passwords = file })
	client := func() func(user, password string) int {
		over := new(http.Transport)
		t.Cleanup(over.CloseIdleConnections)
		return func(user, password string) int {
			r, err := http.NewRequest("GET", "http://"+w.admin.Addr().String()+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth(user, password)
			answer, err := (&http.Client{Transport: over, Timeout: patience}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			io.Copy(io.Discard, answer.Body)
			return answer.StatusCode
		}
	}
	operator, neighbor := client(), client()
	if got := operator("olaf", "olaf's secret"); got != 200 {
		t.Fatal(got)
	}
	exhaust := func() {
		for i := 0; neighbor("vera", "wrong") != 429; i++ {
			if i > 2*loginBurst {
				t.Fatal("tries are not limited")
			}
		}
	}
	exhaust()
	if got := operator("olaf", "olaf's secret"); got != 200 {
		t.Errorf("the operator is refused by %d", got)
	}
	for who, ask := range map[string]func() int{
		"the right password on another connection": func() int { return client()("olaf", "olaf's secret") },
		"a wrong password on the operator's":       func() int { return operator("olaf", "wrong") },
		"another user's on the operator's":         func() int { return operator("vera", "vera's secret") },
	} {
		exhaust()
		if got := ask(); got != 429 {
			t.Errorf("%s: %d, want 429", who, got)
		}
	}
}

// TestTheKnownAreBoundedToo: who is known keeps its connection; when many are,
// the next ones are held like strangers, and answered all the same.
func TestTheKnownAreBoundedToo(t *testing.T) {
	w := newWorld(t, nil)
	known := func() int {
		h := w.admin.(*hall)
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.known
	}
	var clients []*http.Client
	for i := range knownAtOnce + 10 {
		client := &http.Client{Transport: &http.Transport{}}
		clients = append(clients, client)
		answer, err := client.Get("http://" + w.admin.Addr().String() + "/metrics")
		if err != nil || answer.StatusCode != 200 {
			t.Fatalf("client %d: %v", i, err)
		}
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if n := known(); n > knownAtOnce {
			t.Fatalf("%d are known", n)
		}
	}
	for _, client := range clients {
		client.CloseIdleConnections()
	}
	w.eventually("nobody is there", func() bool { return known() == 0 })
}

// TestRefusedCertificatesAtTheAdministration: whoever does not get through the
// handshake has a line in the audit log, with the address. Without
// noteHandshake there is none.
func TestRefusedCertificatesAtTheAdministration(t *testing.T) {
	path, auditing := withAudit(t)
	w := startWorld(t, testConfig(t, func(c *Config) {
		c.Admin.TLS, c.Admin.ClientAuth = true, "cert"
		c.Analysts = []AnalystConfig{{Name: "vera", Streams: []string{"*/*"}, Admin: "viewer"}, {Name: "alice", Streams: []string{"*/*"}}}
	}), auditing)
	other := certificate(poiptest.NewCA(t), nil, "poip://analyst/vera")
	for _, c := range []struct {
		what, actor, reason string
		config              *tls.Config
	}{
		{"no certificate", "", "didn't provide a certificate", w.with(nil)},
		{"another authority's", "", "unknown authority", w.with(other)},
		{"an analyst without a rank", "alice", "not for this analyst", w.as("alice")},
	} {
		conn, err := tls.Dial("tcp", w.admin.Addr().String(), c.config)
		remote := ""
		if err == nil {
			remote = conn.LocalAddr().String()
			conn.Read(make([]byte, 1))
			conn.Close()
		}
		w.audited(path, c.what, func(e audit.Entry) bool {
			return e.Event == audit.AdminRefused && e.Actor == c.actor && strings.Contains(e.Reason, c.reason) && e.Remote == remote
		})
		w.eventually("a line of the log", func() bool { return strings.Contains(w.logs.String(), "remote="+remote) })
	}
	answer, err := w.adminClient(w.as("vera")).Get(w.adminURL("/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

// TestCertificatesAtTheAdministrationDoNotStandForEver: on a connection that was
// opened before, and at the next handshake. Without guard.verdict in
// certifiedCaller a revoked operator goes on, without the look at NotAfter an
// expired one.
func TestCertificatesAtTheAdministrationDoNotStandForEver(t *testing.T) {
	v := new(verdicts)
	w := startWorld(t, testConfig(t, func(c *Config) {
		c.Admin.TLS, c.Admin.ClientAuth = true, "cert"
		c.Analysts = []AnalystConfig{{Name: "olaf", Streams: []string{"*/*"}, Admin: "operator"}}
	}), func(o *Options) { o.Standing, o.Reload = v.judge, func() error { return nil } })
	end := time.Now().Add(3 * time.Second)
	shortly := func(c *x509.Certificate) { c.NotAfter = end }
	revoked := w.keepAlive(w.as("olaf"))
	expired := w.keepAlive(w.with(certificate(w.ca, shortly, "poip://analyst/olaf")))
	for _, ask := range []func() int{revoked, expired} {
		if got := ask(); got != 200 {
			t.Fatalf("while the certificate stands: %d", got)
		}
	}
	time.Sleep(time.Until(end.Truncate(time.Second).Add(time.Second))) // certificates have whole seconds
	if got := expired(); got != 403 {
		t.Errorf("an expired certificate: %d", got)
	}
	v.now.Store(&wire.Refusal{Code: wire.CodeRevoked, Reason: "the test says so"})
	w.TrustChanged(nil)
	if got := revoked(); got != 403 {
		t.Errorf("a revoked certificate: %d", got)
	}
	if got := w.keepAlive(w.as("olaf"))(); got != 0 {
		t.Errorf("a revoked certificate gets through the handshake: %d", got)
	}
}

// keepAlive orders a reload as often as it is called, always on the connection
// of the first time. 0: there was no answer.
func (w *world) keepAlive(config *tls.Config) (ask func() int) {
	dials := 0
	over := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		if dials++; dials > 1 {
			w.t.Error("the connection was not kept")
		}
		return tls.Dial("tcp", w.admin.Addr().String(), config)
	}}
	w.t.Cleanup(over.CloseIdleConnections)
	return func() int {
		answer, err := (&http.Client{Transport: over, Timeout: patience}).Post(w.adminURL("/api/v1/reload"), "application/json", nil)
		if err != nil {
			return 0
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
}
