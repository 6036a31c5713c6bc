package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"poip/auth"
	"poip/internal/audit"
)

// passwordLine is a cheap one; what a real one costs is in auth.
func passwordLine(name, role, password string) string {
	salt := []byte("0123456789abcdef")
	hash := argon2.IDKey([]byte(password), salt, 1, 8<<10, 1, 32)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("%s:%s:$argon2id$v=19$m=8192,t=1,p=1$%s$%s\n", name, role, b64.EncodeToString(salt), b64.EncodeToString(hash))
}

func passwordFile(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A request to the administration's pages, as if from an address.
type asked struct {
	method, path, host, remote, user, password, body string
	header                                           map[string]string
}

func (a asked) of(pages http.Handler) *httptest.ResponseRecorder {
	r := httptest.NewRequest(a.method, "http://127.0.0.1"+a.path, strings.NewReader(a.body))
	r.Host, r.RemoteAddr = a.host, a.remote
	if r.Host == "" {
		r.Host = "127.0.0.1:57080"
	}
	if r.RemoteAddr == "" {
		r.RemoteAddr = "127.0.0.1:40000"
	}
	if a.user != "" {
		r.SetBasicAuth(a.user, a.password)
	}
	for k, v := range a.header {
		r.Header.Set(k, v)
	}
	local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:57080"))
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local))
	answer := httptest.NewRecorder()
	pages.ServeHTTP(answer, r)
	return answer
}

// TestRoles: who may see, who may change, and who neither. Without the rank in
// only, viewers change things.
func TestRoles(t *testing.T) {
	file := passwordFile(t, passwordLine("vera", "viewer", "vera's secret"), passwordLine("olaf", "operator", "olaf's secret"))
	path, auditing := withAudit(t)
	reloads := 0
	w := startWorld(t, testConfig(t, func(c *Config) { c.Admin.Passwords = file }), auditing, func(o *Options) {
		o.Reload = func() error { reloads++; return nil }
	})
	pages := w.adminPages()
	for _, c := range []struct {
		user, password, method, path string
		want                         int
	}{
		{"", "", "GET", "/healthz", 200},
		{"", "", "GET", "/metrics", 401},
		{"vera", "vera's secret", "GET", "/metrics", 200},
		{"vera", "olaf's secret", "GET", "/metrics", 401},
		{"nobody", "vera's secret", "GET", "/metrics", 401},
		{"vera", "vera's secret", "GET", "/api/v1/streams", 200},
		{"vera", "vera's secret", "POST", "/api/v1/reload", 403},
		{"olaf", "olaf's secret", "GET", "/api/v1/listeners", 200},
		{"olaf", "olaf's secret", "GET", "/api/v1/reload", 405},
		{"olaf", "olaf's secret", "POST", "/api/v1/reload", 200},
		{"olaf", "olaf's secret", "POST", "/api/v1/revoke", 400},
		{"", "", "POST", "/api/v1/reload", 401},
	} {
		got := asked{method: c.method, path: c.path, user: c.user, password: c.password}.of(pages)
		if got.Code != c.want {
			t.Errorf("%s %s as %q: %d, want %d", c.method, c.path, c.user, got.Code, c.want)
		}
		if challenge := got.Header().Get("WWW-Authenticate"); (c.want == 401) != strings.HasPrefix(challenge, "Basic ") {
			t.Errorf("%s %s as %q: challenge %q", c.method, c.path, c.user, challenge)
		}
	}
	if reloads != 1 {
		t.Errorf("%d reloads", reloads)
	}
	w.audited(path, "the operator", func(e audit.Entry) bool { return e.Event == audit.AdminAction && e.Actor == "olaf" })
	w.audited(path, "the viewer", func(e audit.Entry) bool { return e.Event == audit.AdminRefused && e.Actor == "vera" })
	text, _ := os.ReadFile(path)
	if bytes.Contains(text, []byte("secret")) || strings.Contains(w.logs.String(), "secret") || bytes.Contains(text, []byte(`"nobody"`)) {
		t.Error("what was typed is in a log")
	}
}

// TestNothingIsForNobody: without a log-in, loopback may look and not change,
// a socket's owner may do both, and an address that is reached from elsewhere
// nothing, even if a check were missing.
func TestNothingIsForNobody(t *testing.T) {
	for listen, want := range map[string][2]int{
		"127.0.0.1:0":          {200, 403},
		"unix:/nowhere/a.sock": {200, 501},
		"0.0.0.0:57080":        {403, 403},
		"[2001:db8::1]:57080":  {403, 403},
		"":                     {403, 403},
	} {
		b := &Broker{opts: Options{}.withDefaults(), desk: new(desk)}
		b.log = b.opts.Log
		b.desk.rules.Store(&deskRules{config: AdminConfig{Listen: listen}})
		pages := b.adminPages()
		look := asked{method: "GET", path: "/api/v1/listeners"}.of(pages).Code
		change := asked{method: "POST", path: "/api/v1/reload"}.of(pages).Code
		if look != want[0] || change != want[1] {
			t.Errorf("%q: look %d, change %d; want %d", listen, look, change, want)
		}
	}
}

// TestForgeries: requests that an operator's browser was tricked into, and to
// which it adds the password by itself. Each row fails without its line of
// admissible; who asks might do everything.
func TestForgeries(t *testing.T) {
	path, auditing := withAudit(t)
	file := passwordFile(t, passwordLine("olaf", "operator", "olaf's secret"))
	reloads := 0
	w := startWorld(t, testConfig(t, func(c *Config) { c.Admin.Hosts, c.Admin.Passwords = []string{"metrics.example"}, file }), auditing,
		func(o *Options) { o.Reload = func() error { reloads++; return nil } })
	pages := w.adminPages()
	for _, c := range []struct {
		what, method, host string
		header             map[string]string
		want               int
	}{
		{"our name", "GET", "relay.test:57080", nil, 200},
		{"our name, louder", "GET", "RELAY.TEST", nil, 200},
		{"a name of the configuration", "GET", "metrics.example:57080", nil, 200},
		{"the address at which it came", "GET", "192.0.2.1:57080", nil, 200},
		{"another address", "GET", "192.0.2.2:57080", nil, 403},
		{"a rebound name", "GET", "evil.example:57080", nil, 403},
		{"a name with ours in it", "GET", "relay.test.evil.example", nil, 403},
		{"no name", "GET", "\x00", nil, 403},
		{"the same origin", "POST", "127.0.0.1:57080", map[string]string{"Origin": "http://127.0.0.1:57080"}, 200},
		{"the same site", "POST", "127.0.0.1:57080", map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
		{"no page", "POST", "127.0.0.1:57080", nil, 200},
		{"typed by hand", "POST", "127.0.0.1:57080", map[string]string{"Sec-Fetch-Site": "none"}, 200},
		{"a rebound name", "POST", "evil.example:57080", nil, 403},
		{"another origin", "POST", "127.0.0.1:57080", map[string]string{"Origin": "http://evil.example"}, 403},
		{"another port", "POST", "127.0.0.1:57080", map[string]string{"Origin": "http://127.0.0.1:8000"}, 403},
		{"another scheme", "POST", "127.0.0.1:57080", map[string]string{"Origin": "https://127.0.0.1:57080"}, 403},
		{"no origin", "POST", "127.0.0.1:57080", map[string]string{"Origin": "null"}, 403},
		{"another port of this host", "POST", "127.0.0.1:57080", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"another origin", "GET", "127.0.0.1:57080", map[string]string{"Origin": "http://evil.example"}, 403},
		{"another port", "GET", "127.0.0.1:57080", map[string]string{"Origin": "http://127.0.0.1:8000"}, 403},
		{"another scheme", "GET", "127.0.0.1:57080", map[string]string{"Origin": "https://127.0.0.1:57080"}, 403},
		{"no origin", "GET", "127.0.0.1:57080", map[string]string{"Origin": "null"}, 403},
		{"another site", "POST", "127.0.0.1:57080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"a link from another site", "GET", "127.0.0.1:57080", map[string]string{"Sec-Fetch-Site": "cross-site"}, 200},
	} {
		p := "/api/v1/streams"
		if c.method == "POST" {
			p = "/api/v1/reload"
		}
		before := reloads
		got := asked{method: c.method, path: p, host: c.host, header: c.header, user: "olaf", password: "olaf's secret"}.of(pages)
		if got.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.what, got.Code, c.want)
		}
		if acted := reloads > before; acted != (c.method == "POST" && c.want == 200) {
			t.Errorf("%s %s: acted upon: %v", c.method, c.what, acted)
		}
		if csp := got.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || got.Header().Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: policy %q", c.what, csp)
		}
	}
	w.audited(path, "a forgery", func(e audit.Entry) bool { return e.Event == audit.AdminRefused })
	for _, p := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/"} {
		if got := (asked{method: "GET", path: p}.of(pages)); got.Code != 404 {
			t.Errorf("%s: %d", p, got.Code)
		}
	}
}

// TestLoginsAreLimited: by address, and no matter whether the name exists.
// Without mayTry guessing goes on for ever.
func TestLoginsAreLimited(t *testing.T) {
	file := passwordFile(t, passwordLine("vera", "viewer", "vera's secret"))
	w := newWorld(t, func(c *Config) { c.Admin.Passwords = file })
	pages := w.adminPages()
	for _, name := range []string{"vera", "nobody"} {
		from := map[string]string{"vera": "192.0.2.7:", "nobody": "192.0.2.8:"}[name]
		try := func(port int, password string) int {
			return asked{method: "GET", path: "/metrics", user: name, password: password, remote: from + fmt.Sprint(port)}.of(pages).Code
		}
		wrong, limited := 0, 0
		begin := time.Now()
		for i := range loginBurst + 20 {
			switch code := try(1000+i, "wrong"); code {
			case 401:
				wrong++
			case 429:
				limited++
			default:
				t.Errorf("%s: %d", name, code)
			}
		}
		last := time.Now()
		got := try(2000, "vera's secret")
		if most := loginBurst + 1 + int(time.Since(begin)/loginEvery); wrong < loginBurst || wrong > most || limited == 0 {
			t.Errorf("%s: %d tries, then %d that were turned away", name, wrong, limited)
		}
		if got != 429 && time.Since(last) < loginEvery/2 {
			t.Errorf("%s: the right password tells by %d that it is right", name, got)
		}
	}
	for i := range 3 * loginBurst { // who is right is not limited
		if got := (asked{method: "GET", path: "/metrics", user: "vera", password: "vera's secret", remote: "192.0.2.9:1"}.of(pages)); got.Code != 200 {
			t.Fatalf("log-in %d: %d", i, got.Code)
		}
	}
}

// TestLoginsDoNotExhaustMemory: few passwords are checked at a time, few wait,
// and the others are told to come again.
func TestLoginsDoNotExhaustMemory(t *testing.T) {
	file := passwordFile(t, passwordLine("vera", "viewer", "vera's secret"))
	w := newWorld(t, func(c *Config) { c.Admin.Passwords = file })
	pages := w.adminPages()
	for range hashers {
		w.desk.work <- struct{}{} // somebody is at it
	}
	codes := make(chan int, 100)
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			codes <- asked{method: "GET", path: "/metrics", user: "x", password: "wrong", remote: fmt.Sprintf("192.0.2.%d:1", i)}.of(pages).Code
		})
	}
	for range 100 - queueing {
		if code := <-codes; code != 503 {
			t.Errorf("%d, want 503", code)
		}
	}
	for range hashers {
		<-w.desk.work
	}
	clients.Wait()
	for range queueing {
		if code := <-codes; code != 401 {
			t.Errorf("%d, want 401", code)
		}
	}
}

func TestCallersAreBounded(t *testing.T) {
	d := &desk{callers: make(map[netip.Prefix]*caller)}
	now := time.Now()
	for i := range 3 * maxCallers {
		d.mayTry(callerOf(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255)), now)
	}
	if n := len(d.callers); n > maxCallers+1 {
		t.Errorf("%d addresses are remembered", n)
	}
	d.mayTry(callerOf("192.0.2.1:1"), now.Add(time.Hour))
	if n := len(d.callers); n > 2 {
		t.Errorf("%d addresses are remembered an hour later", n)
	}
	if callerOf("[2001:db8::1]:1") != callerOf("[2001:db8::2]:9") || callerOf("192.0.2.1:1") == callerOf("192.0.2.2:1") {
		t.Error("addresses are told apart wrongly")
	}
}

// TestAPasswordThatChangedIsForgotten: a reload puts the file in force.
func TestAPasswordThatChangedIsForgotten(t *testing.T) {
	file := passwordFile(t, passwordLine("vera", "viewer", "vera's secret"))
	w := newWorld(t, func(c *Config) { c.Admin.Passwords = file })
	pages := w.adminPages()
	login := func(password string) int {
		return asked{method: "GET", path: "/metrics", user: "vera", password: password}.of(pages).Code
	}
	if got := login("vera's secret"); got != 200 {
		t.Fatal(got)
	}
	if err := os.WriteFile(file, []byte(passwordLine("vera", "viewer", "another secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(w.cfg); err != nil {
		t.Fatal(err)
	}
	if old, fresh := login("vera's secret"), login("another secret"); old != 401 || fresh != 200 {
		t.Errorf("the old password: %d, the new one: %d", old, fresh)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Reload(w.cfg); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a file that others read: %v", err)
	}
	if got := login("another secret"); got != 200 {
		t.Errorf("after a reload that failed: %d", got)
	}
}

// TestAdminSocket: for its owner alone, who may act; gone at the end, and in
// the way of nobody after a crash.
func TestAdminSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "poip") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "a.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if err := errors.Join(os.Mkdir(path+".new", 0o700), os.WriteFile(path+".new/s", nil, 0o600)); err != nil { // of one that crashed while it made its socket
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.Admin.Listen = "unix:" + path }, plain("p"))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := os.Lstat(path + ".new"); err == nil {
		t.Error("the folder in which the socket was made is left over")
	}
	if _, err := New(w.cfg, w.options()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second relay: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	w.agent("s/c")
	r := w.analyst(w.address("p"))
	r.header()
	answer, err := client.Post("http://localhost/api/v1/disconnect", "application/json", strings.NewReader(`{"listener":"p","connection":0}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(text), `"disconnected": 1`) {
		t.Errorf("%s: %s, %v", answer.Status, text, err)
	}
	r.ends()
	w.stop()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left over")
	}
}

// A password that was checked while a reload took it away is not remembered.
func TestWhatWasReplacedIsNotRemembered(t *testing.T) {
	d := &desk{known: make(map[string]remembered)}
	before, now := new(auth.Passwords), new(auth.Passwords)
	d.rules.Store(&deskRules{passwords: now})
	d.remember(before, "vera", d.tag("vera", "x"), viewer)
	if _, ok := d.recall("vera", d.tag("vera", "x")); ok {
		t.Error("an old password is good for ten minutes more")
	}
	d.remember(now, "vera", d.tag("vera", "x"), viewer)
	if _, ok := d.recall("vera", d.tag("vera", "x")); !ok {
		t.Error("a good one is forgotten")
	}
}

// TestAdminByCertificate: analysts with a rank, and nobody else, over TLS.
// Without the check in adminTLS the others reach the pages.
func TestAdminByCertificate(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Admin.TLS, c.Admin.ClientAuth = true, "cert"
		c.Analysts = []AnalystConfig{
			{Name: "vera", Streams: []string{"*/*"}, Admin: "viewer"},
			{Name: "olaf", Streams: []string{"*/*"}, Admin: "operator"},
			{Name: "alice", Streams: []string{"*/*"}},
		}
	})
	ask := func(config *tls.Config, method, path string) int {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
		r, err := http.NewRequest(method, "https://"+w.admin.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			return 0
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	for _, c := range []struct {
		who          string
		config       *tls.Config
		look, change int
	}{
		{"vera", w.as("vera"), 200, 403},
		{"olaf", w.as("olaf"), 200, 501},
		{"alice", w.as("alice"), 0, 0},
		{"mallory", w.as("mallory"), 0, 0},
		{"nobody", w.with(nil), 0, 0},
		{"a sensor", w.with(certificate(w.ca, nil, "poip://sensor/olaf")), 0, 0},
	} {
		if look, change := ask(c.config, "GET", "/metrics"), ask(c.config, "POST", "/api/v1/reload"); look != c.look || change != c.change {
			t.Errorf("%s: look %d, change %d; want %d, %d", c.who, look, change, c.look, c.change)
		}
	}
}
