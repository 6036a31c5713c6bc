package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"

	"poip/internal/browser"
)

// This file is what operators, and whoever can make their browsers ask, may say
// to the administration.

// A deed is what the administration did because it was asked to.
type deed struct {
	path  string
	order RevokeOrder
}

// fuzzedAdmin has the pages of a relay, and remembers what they lead to.
type fuzzedAdmin struct {
	*world
	pages http.Handler
	deeds []deed
}

func newFuzzedAdmin(f *testing.F, change func(*Config)) *fuzzedAdmin {
	a := new(fuzzedAdmin)
	a.world = startWorld(f, testConfig(f, change), func(o *Options) {
		o.Reload = func() error { a.deeds = append(a.deeds, deed{path: "/api/v1/reload"}); return nil }
		o.Revoke = func(r RevokeOrder) error { a.deeds = append(a.deeds, deed{"/api/v1/revoke", r}); return nil }
	})
	a.pages = a.adminPages()
	return a
}

// byOwner has whoever asks be an operator, as on the socket.
func (a *fuzzedAdmin) byOwner() *fuzzedAdmin {
	a.desk.rules.Store(&deskRules{config: AdminConfig{Listen: "unix:/nowhere/a.sock"}, name: "relay.test"})
	return a
}

// ask returns the answer and what was done for it.
func (a *fuzzedAdmin) ask(r *http.Request) (*httptest.ResponseRecorder, []deed) {
	a.deeds = nil
	r.RemoteAddr = "127.0.0.1:40000"
	local := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:57080"))
	answer := httptest.NewRecorder()
	a.pages.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
	return answer, a.deeds
}

// decent is an answer that may be shown to anybody.
func decent(t *testing.T, answer *httptest.ResponseRecorder) {
	t.Helper()
	if !slices.Contains([]int{200, 301, 307, 400, 401, 403, 404, 405, 501}, answer.Code) {
		t.Errorf("answered with %d", answer.Code)
	}
	if answer.Header().Get("Content-Security-Policy") != browser.Policy || answer.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Error("a browser may do what it likes with the answer")
	}
	if body := answer.Body.Bytes(); bytes.ContainsFunc(body, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("control bytes in the answer: %q", body)
	}
	if html := strings.HasPrefix(answer.Header().Get("Content-Type"), "text/html"); html && bytes.Contains(answer.Body.Bytes(), []byte("<script")) {
		t.Errorf("answered %q", answer.Body)
	}
}

// FuzzAdminRequest: whatever the request, something is done for a POST to the
// very path only, from no page of another site, and it is answered by 200.
func FuzzAdminRequest(f *testing.F) {
	for _, line := range []string{
		"GET /metrics", "GET /healthz", "GET /api/v1/streams?x=<script>", "GET //api/v1/../v1/listeners", "POST /api/v1/reload",
		"POST /api/v1//reload", "POST /api/v1/%72eload", "HEAD /api/v1/reload", "POST /api/v1/disconnect", "OPTIONS *", "CONNECT 127.0.0.1:1",
		"GET http://evil.example/metrics", "POST http://127.0.0.1/api/v1/reload", "GET /debug/pprof/",
	} {
		f.Add([]byte(line + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
	}
	f.Add([]byte("POST /api/v1/revoke HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 21\r\n\r\n{\"sensor\":\"branch-7\"}"))
	f.Add([]byte("POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin\r\n\r\n"))
	f.Add([]byte("POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n"))
	f.Add([]byte("POST /api/v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	a := newFuzzedAdmin(f, nil).byOwner()
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		answer, deeds := a.ask(r)
		decent(t, answer)
		if len(deeds) == 0 {
			return
		}
		site, origins := r.Header.Get("Sec-Fetch-Site"), r.Header.Values("Origin")
		ours := len(origins) == 0 || len(origins) == 1 && strings.EqualFold(origins[0], "http://"+r.Host)
		if len(deeds) != 1 || r.Method != "POST" || r.URL.Path != deeds[0].path || answer.Code != 200 ||
			!ours || site != "" && site != "none" && site != "same-origin" {
			t.Errorf("%q: %+v, answered by %d", raw, deeds, answer.Code)
		}
	})
}

// FuzzOrder: what is obeyed is one order, of bounded length, which means the same
// when it is written anew.
func FuzzOrder(f *testing.F) {
	for _, body := range []string{
		`{"sensor":"branch-7"}`, `{"analyst":"alice"}`, `{"serial":"0a"}`, `{"sensor":"a","analyst":"b"}`, `{}`, `null`, `[]`, `{"sensor":"a"}{}`,
		`{"SENSOR":"a"}`, `{"sensor":"a","sensor":""}`, `{"listener":"p","connection":0}`, `{"connection":-1}`, `{"\u001b[31m":1}`, `{"sensor":"\u001b<script>"}`,
		`{"sensor":"\u007f"}`, `{"analyst":"\u009b31m"}`, `{"analyst":"\u202e"}`,
	} {
		f.Add("/api/v1/revoke", []byte(body))
		f.Add("/api/v1/disconnect", []byte(body))
	}
	f.Add("/api/v1/reload", []byte("x"))
	a := newFuzzedAdmin(f, nil).byOwner()
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if !slices.Contains([]string{"/api/v1/reload", "/api/v1/disconnect", "/api/v1/revoke"}, path) {
			return
		}
		post := func(body []byte) (*httptest.ResponseRecorder, []deed) {
			return a.ask(httptest.NewRequest("POST", "http://127.0.0.1"+path, bytes.NewReader(body)))
		}
		answer, deeds := post(body)
		decent(t, answer)
		if answer.Code == 200 && !json.Valid(answer.Body.Bytes()) {
			t.Errorf("answered %q", answer.Body)
		}
		if path != "/api/v1/revoke" {
			return
		}
		if (answer.Code == 200) != (len(deeds) == 1) {
			t.Fatalf("%d deeds, answered by %d", len(deeds), answer.Code)
		}
		if len(deeds) == 0 {
			return
		}
		o := deeds[0].order
		if given(o.Sensor)+given(o.Analyst)+given(o.Serial) != 1 || !json.Valid(body) {
			t.Errorf("%q was obeyed as %+v", body, o)
		}
		anew, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if len(anew) > maxOrder { // an escape may be longer than what it stands for
			return
		}
		if _, again := post(anew); len(again) != 1 || again[0].order != o {
			t.Errorf("%q was obeyed as %+v, and written anew as %+v", body, o, again)
		}
	})
}

// FuzzBasicHeader: nothing lets in but the name and the password.
func FuzzBasicHeader(f *testing.F) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, s := range []string{"olaf:olaf's secret", "olaf:wrong", "vera:olaf's secret", "olaf", ":", "", "olaf:olaf's secret\x00", "Olaf:olaf's secret", "\x1b:\xff"} {
		f.Add("Basic " + encode(s))
	}
	f.Add("basic " + encode("olaf:olaf's secret"))
	f.Add("Basic  " + encode("olaf:olaf's secret"))
	f.Add("Bearer " + encode("olaf:olaf's secret"))
	f.Add("Basic !")
	file := passwordFile(f, passwordLine("olaf", "operator", "olaf's secret"))
	a := newFuzzedAdmin(f, func(c *Config) { c.Admin.Passwords = file })
	f.Fuzz(func(t *testing.T, header string) {
		a.desk.mu.Lock()
		clear(a.desk.callers) // else this address could fail a few times only
		a.desk.mu.Unlock()
		r := httptest.NewRequest("POST", "http://127.0.0.1/api/v1/reload", nil)
		r.Header.Set("Authorization", header)
		answer, deeds := a.ask(r)
		decent(t, answer)
		want := 401
		if scheme, rest, _ := strings.Cut(header, " "); strings.EqualFold(scheme, "Basic") {
			if text, err := base64.StdEncoding.DecodeString(rest); err == nil && string(text) == "olaf:olaf's secret" {
				want = 200
			}
		}
		if answer.Code != want || len(deeds) == 1 != (want == 200) {
			t.Errorf("%q: answered by %d, want %d; %d deeds", header, answer.Code, want, len(deeds))
		}
	})
}
