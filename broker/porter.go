package broker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"poip/internal/browser"
)

// This file is what passes to the administration's pages.

// porter answers only requests for a name of this relay, and none that comes
// from another site's page.
func (b *Broker) porter(pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		browser.Restrain(w.Header())
		if err := b.admissible(r); err != nil {
			b.auditDenial(r.RemoteAddr, denial{text: err.Error(), word: "forged"})
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		pages.ServeHTTP(w, r)
	})
}

func (b *Broker) admissible(r *http.Request) error {
	if !b.desk.rules.Load().hasHost(r) {
		return errors.New("ask for 127.0.0.1, [::1], localhost, the relay's name or one of admin.hosts")
	}
	return browser.CheckOrigin(r)
}

// hasHost says whether the request is for a name of ours: of loopback, of the
// configuration, or the very address at which it has arrived.
func (d *deskRules) hasHost(r *http.Request) bool {
	host := browser.HostOf(r)
	if browser.IsLoopback(host) {
		return true
	}
	for _, name := range append([]string{d.name}, d.config.Hosts...) {
		if name != "" && strings.EqualFold(host, name) {
			return true
		}
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	addr, err := netip.ParseAddr(host)
	return err == nil && local != nil && addrOf(local) == addr.Unmap()
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
