package broker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// This file is what passes to the administration's pages.

// strictPolicy lets a browser do nothing with an answer but show it.
const strictPolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// porter answers only requests for a name of this relay: a page on the web
// could make a browser ask under a name of its own that resolves to us. And
// none that comes from another site's page.
func (b *Broker) porter(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", strictPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if err := b.admissible(r); err != nil {
			b.auditDenial(r.RemoteAddr, denial{text: err.Error(), word: "forged"})
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

func (b *Broker) admissible(r *http.Request) error {
	rules := b.desk.rules.Load()
	if !rules.hasHost(r) {
		return errors.New("ask for 127.0.0.1, [::1], localhost, the relay's name or one of admin.hosts")
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	for _, origin := range r.Header.Values("Origin") {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != scheme || !strings.EqualFold(u.Host, r.Host) || len(r.Header.Values("Origin")) > 1 {
			return errors.New("the request comes from another site's page")
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errors.New("the request comes from another site's page")
	}
	return nil
}

// hasHost says whether the request is for a name of ours: of loopback, of the
// configuration, or the very address at which it has arrived.
func (d *deskRules) hasHost(r *http.Request) bool {
	if isLoopbackName(r.Host) {
		return true
	}
	host := strings.Trim(hostPart(r.Host), "[]")
	for _, name := range append([]string{d.name}, d.config.Hosts...) {
		if name != "" && strings.EqualFold(host, name) {
			return true
		}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	addr, err := netip.ParseAddr(host)
	return err == nil && local != nil && addrOf(local) == addr.Unmap()
}

func isLoopbackName(hostport string) bool {
	host := strings.Trim(hostPart(hostport), "[]")
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

type callerKey struct{}

// actorOf is who sends a request that only has let through.
func actorOf(r *http.Request) string {
	name, _ := r.Context().Value(callerKey{}).(string)
	return name
}

// only lets through who may do what takes the rank.
func (b *Broker) only(least rank, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, rank, err := b.identifyCaller(r)
		if err == nil && rank < least {
			err = denial{status: http.StatusForbidden, text: "this is for operators", word: "rank", actor: name}
		}
		if err != nil {
			b.deny(w, r, err)
			return
		}
		waiterOf(r).recognize()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, name)))
	})
}

func (b *Broker) deny(w http.ResponseWriter, r *http.Request, err error) {
	d := denial{status: http.StatusInternalServerError, text: "cannot tell who this is"}
	if !errors.As(err, &d) {
		b.log.Error("identify who asks the administration", "error", err)
	}
	b.auditDenial(r.RemoteAddr, d)
	switch d.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="poip-relay", charset="UTF-8"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, d.text, d.status)
}
