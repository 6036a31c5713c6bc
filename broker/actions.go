package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"poip/internal/audit"
)

// This file is what operators may do at the administration.

// A RevokeOrder names whose certificates are not to be trusted any more: one
// of the three.
type RevokeOrder struct {
	Sensor  string `json:"sensor,omitempty"`
	Analyst string `json:"analyst,omitempty"`
	Serial  string `json:"serial,omitempty"`
}

// A disconnectOrder names connections of analysts: all of one analyst, or one
// of a listener by its number.
type disconnectOrder struct {
	Analyst    string `json:"analyst,omitempty"`
	Listener   string `json:"listener,omitempty"`
	Connection *int   `json:"connection,omitempty"`
}

// maxOrder bounds the body of an order, in bytes.
const maxOrder = 4 << 10

func (b *Broker) addActions(mux *http.ServeMux) {
	add := func(path string, act func(r *http.Request) (any, error)) {
		mux.Handle("POST "+path, b.only(operator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxOrder)
			out, err := act(r)
			b.auditAction(r, out, err)
			if err != nil {
				http.Error(w, err.Error(), statusOf(err))
				return
			}
			b.answer(w, out)
		})))
	}
	add("/api/v1/reload", b.reloadAction)
	add("/api/v1/disconnect", b.disconnectAction)
	add("/api/v1/revoke", b.revokeAction)
}

var (
	errNotOffered = errors.New("this relay does not offer that")
	errBadOrder   = errors.New("bad order")
)

func statusOf(err error) int {
	switch {
	case errors.Is(err, errNotOffered):
		return http.StatusNotImplemented
	case errors.Is(err, errBadOrder):
		return http.StatusBadRequest
	}
	return http.StatusConflict
}

func (b *Broker) auditAction(r *http.Request, out any, err error) {
	e := audit.Entry{Event: audit.AdminAction, Actor: actorOf(r), Remote: r.RemoteAddr, Reason: r.URL.Path}
	if err != nil {
		e.Reason += ": " + err.Error()
	} else if text, err := json.Marshal(out); err == nil {
		e.Reason += ": " + string(text)
	}
	b.log.Info("an operator acts", "actor", e.Actor, "remote", e.Remote, "what", e.Reason)
	b.opts.Audit.Write(e)
}

// order reads a body strictly.
func order(r *http.Request, dst any) error {
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	if err := in.Decode(dst); err != nil {
		return fmt.Errorf("%w: %w", errBadOrder, err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows it", errBadOrder)
	}
	return nil
}

func (b *Broker) reloadAction(*http.Request) (any, error) {
	if b.opts.Reload == nil {
		return nil, errNotOffered
	}
	return map[string]any{"reloaded": true}, b.opts.Reload()
}

func (b *Broker) revokeAction(r *http.Request) (any, error) {
	var o RevokeOrder
	if err := order(r, &o); err != nil {
		return nil, err
	}
	if given(o.Sensor)+given(o.Analyst)+given(o.Serial) != 1 {
		return nil, fmt.Errorf("%w: name one of sensor, analyst, serial", errBadOrder)
	}
	if b.opts.Revoke == nil {
		return nil, errNotOffered
	}
	if err := b.opts.Revoke(o); err != nil {
		return nil, err
	}
	b.opts.Audit.Write(audit.Entry{Event: audit.Revoked, Actor: actorOf(r), Sensor: o.Sensor, Analyst: o.Analyst, Serial: o.Serial})
	return map[string]any{"revoked": o}, nil
}

func given(s string) int {
	if s == "" {
		return 0
	}
	return 1
}

func (b *Broker) disconnectAction(r *http.Request) (any, error) {
	var o disconnectOrder
	if err := order(r, &o); err != nil {
		return nil, err
	}
	if o.Analyst == "" && (o.Listener == "" || o.Connection == nil) {
		return nil, fmt.Errorf("%w: name an analyst, or a listener and the number of a connection", errBadOrder)
	}
	return map[string]any{"disconnected": b.disconnect(o), "order": o}, nil
}

// disconnect ends the connections that the order names, and says how many.
func (b *Broker) disconnect(o disconnectOrder) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.listeners {
		for _, d := range l.doors {
			for s := range d.subscribers {
				if o.names(l, s) {
					s.dismiss("by an operator")
					n++
				}
			}
		}
	}
	return n
}

func (o disconnectOrder) names(l *listener, s *subscriber) bool {
	return (o.Analyst == "" || o.Analyst == s.visit.analyst()) &&
		(o.Listener == "" || o.Listener == l.name()) &&
		(o.Connection == nil || *o.Connection == s.slot)
}
