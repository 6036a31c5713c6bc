// Package browser keeps pages on the web from using a browser against what our
// programs tell over HTTP: such a page can have a browser ask on this machine,
// also under a name of its own that resolves to us, and show it the answer.
package browser

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Policy lets a browser do nothing with an answer but show it.
const Policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Restrain says in the head of an answer how little a browser may do with it.
func Restrain(h http.Header) {
	h.Set("Content-Security-Policy", Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

var errOtherSite = errors.New("the request comes from another site's page")

// CheckOrigin refuses what another site's page has a browser ask.
func CheckOrigin(r *http.Request) error {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	for i, origin := range r.Header.Values("Origin") {
		if i > 0 || !strings.EqualFold(origin, scheme+"://"+r.Host) {
			return errOtherSite
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errOtherSite
	}
	return nil
}

// HostOf is the name or address that a request is for, without the port.
func HostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return strings.Trim(host, "[]")
}

// IsLoopback says whether it is one of this machine that needs no resolver.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
