package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"poip/internal/asciijson"
)

// openAdmin binds the socket of the administration, behind a hall.
func (b *Broker) openAdmin(c AdminConfig) (net.Listener, error) {
	ln, err := b.bindAdmin(c)
	if err != nil {
		return nil, err
	}
	h := &hall{Listener: ln, gate: b.waiting, refused: b.refuseAtHall}
	if !c.TLS {
		return h, nil
	}
	config, err := b.adminTLS(c)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return tls.NewListener(h, config), nil
}

func (b *Broker) bindAdmin(c AdminConfig) (net.Listener, error) {
	if path, ok := c.socketPath(); ok {
		return openSocket(path)
	}
	return b.opts.Listen("tcp", c.Listen)
}

// adminTLS lets in who may log in: what stands in VerifyConnection holds for
// resumed sessions as well.
func (b *Broker) adminTLS(c AdminConfig) (*tls.Config, error) {
	if b.opts.AnalystTLS == nil {
		return nil, errors.New("tls = true, and there is no certificate to use")
	}
	if c.ClientAuth != "cert" {
		return b.opts.AnalystTLS("none")
	}
	config, err := b.opts.AnalystTLS("cert")
	if err != nil {
		return nil, err
	}
	return guarded(config, func(state tls.ConnectionState) error {
		_, _, err := b.certifiedCaller(&state)
		return err
	}), nil
}

// openSocket makes a socket that only its owner can use. One that is left of a
// relay which has crashed is replaced.
func openSocket(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s is in use", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is there, and is no socket", path)
	}
	folder := path + ".new" // which nobody else can enter: whoever connects before the mode is right would be let in
	fresh := filepath.Join(folder, "s")
	_ = os.Remove(fresh) // of a relay that has crashed; else the next line says why
	if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	defer os.Remove(folder)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(fresh))
	}
	return &unixSocket{ln, path}, nil
}

// A unixSocket knows its path, and removes it.
type unixSocket struct {
	*net.UnixListener
	path string
}

func (s *unixSocket) Addr() net.Addr { return &net.UnixAddr{Name: s.path, Net: "unix"} }

func (s *unixSocket) Close() error {
	err := s.UnixListener.Close()
	if err == nil {
		err = os.Remove(s.path)
	}
	return err
}

// serveAdmin serves health, metrics, status and actions until ctx ends.
func (b *Broker) serveAdmin(ctx context.Context) error {
	server := &http.Server{
		Handler:           b.adminPages(),
		ConnContext:       withWaiter,
		ConnState:         b.noteHandshake,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
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

// adminPages are behind the porter, who turns away what a browser is tricked
// into asking for, and behind the desk, but for health.
func (b *Broker) adminPages() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(meter{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", b.health)
	mux.Handle("GET /metrics", b.only(viewer, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	mux.Handle("GET /api/v1/streams", b.only(viewer, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b.answer(w, map[string]any{"streams": b.Streams()})
	})))
	mux.Handle("GET /api/v1/listeners", b.only(viewer, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b.answer(w, map[string]any{"listeners": b.Listeners()})
	})))
	b.addActions(mux)
	return b.porter(mux)
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
	text, err := asciijson.Indented(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(text); err != nil && !errors.Is(err, net.ErrClosed) {
		b.log.Debug("answer a request for status", "error", err)
	}
}
