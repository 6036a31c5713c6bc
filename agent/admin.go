package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"poip/internal/asciijson"
	"poip/internal/browser"
)

// adminConnections are served at a time; who comes then waits. One that says
// nothing makes room after five seconds.
const adminConnections = 32

// An admin serves health, metrics and status, to whoever is on this machine.
type admin struct {
	agent    *Agent
	listener net.Listener
	log      *slog.Logger
}

// listenAdmin returns nil where there is to be none, or cannot be: that is no
// reason not to capture.
func (a *Agent) listenAdmin() *admin {
	if a.config.Admin.Listen == "" {
		return nil
	}
	ln, err := net.Listen("tcp", a.config.Admin.Listen)
	if err != nil {
		a.log.Warn("no metrics and no status of this agent", "error", err,
			"remedy", "give [agent.admin] another address, or \"\" for none")
		return nil
	}
	a.log.Info("metrics and status are served", "address", ln.Addr().String())
	return &admin{agent: a, listener: netutil.LimitListener(ln, adminConnections), log: a.log}
}

func (ad *admin) close() {
	if ad != nil {
		ad.listener.Close()
	}
}

// serve returns when ctx has ended.
func (ad *admin) serve(ctx context.Context) {
	if ad == nil {
		return
	}
	server := &http.Server{
		Handler:           ad.pages(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(ad.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ad.listener); ctx.Err() == nil {
		ad.log.Error("metrics and status are served no more", "error", err)
	}
}

// pages has nothing that changes anything.
func (ad *admin) pages() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(meter{ad.agent}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/status", ad.status)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		browser.Restrain(w.Header())
		if err := admissible(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// admissible wants requests for a loopback name, and none from another site's
// page.
func admissible(r *http.Request) error {
	if !browser.IsLoopback(browser.HostOf(r)) {
		return errors.New("ask for 127.0.0.1, [::1] or localhost")
	}
	return browser.CheckOrigin(r)
}

func (ad *admin) status(w http.ResponseWriter, _ *http.Request) {
	text, err := asciijson.Indented(ad.agent.Report())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(text) // who asked and left needs no answer
}
