package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serveAdmin serves health, metrics and status until ctx ends.
func (b *Broker) serveAdmin(ctx context.Context) error {
	server := &http.Server{
		Handler:           b.adminPages(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(b.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			server.Close()
		}
	})
	err := server.Serve(b.admin)
	if stop() {
		return fmt.Errorf("serve administration: %w", err) // by itself, not by ctx
	}
	<-stopped
	return nil
}

// adminPages has nothing that changes anything, and answers to requests for a
// loopback name only: a page on the web could make a browser on this machine
// ask, under a name of its own that resolves to us.
func (b *Broker) adminPages() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(meter{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", b.health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/v1/streams", func(w http.ResponseWriter, _ *http.Request) {
		b.answer(w, map[string]any{"streams": b.Streams()})
	})
	mux.HandleFunc("GET /api/v1/listeners", func(w http.ResponseWriter, _ *http.Request) {
		b.answer(w, map[string]any{"listeners": b.Listeners()})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackName(r.Host) {
			http.Error(w, "ask for 127.0.0.1, [::1] or localhost", http.StatusForbidden)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func isLoopbackName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (b *Broker) health(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	draining := b.draining
	b.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if draining {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "draining")
		return
	}
	fmt.Fprintln(w, "ok")
}

func (b *Broker) answer(w http.ResponseWriter, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(append(text, '\n')); err != nil && !errors.Is(err, net.ErrClosed) {
		b.log.Debug("answer a request for status", "error", err)
	}
}
