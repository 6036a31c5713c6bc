package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
)

// A keeper holds the relay's trust: what the files of its data folder say
// about certificates, authorities and revocations. Commands change these
// files; the keeper notices, and has the relay's own certificate renewed.
type keeper struct {
	// Set once.
	data    string
	log     *slog.Logger
	renewer *certs.Renewer
	broker  *broker.Broker // before anybody looks
	audit   *audit.Log     // the same

	inForce atomic.Pointer[certs.Trust]
	lives   atomic.Pointer[broker.CertsConfig]

	// Owned by the goroutine that looks and reloads.
	looked    string    // what the files were like when they were loaded
	refused   string    // and when they were of no use
	complaint string    // the last one
	said      time.Time // when
	again     time.Time // before which the relay's certificate is not tried again
}

// lookPace is how often the files are looked at: half a second, so that a
// revocation holds within one.
const lookPace = 500 * time.Millisecond

// newKeeper loads the trust of a relay's data folder. What cannot be read keeps
// the relay from starting.
func newKeeper(cfg broker.Config, log *slog.Logger) (*keeper, error) {
	k := &keeper{data: cfg.Data, log: log}
	k.lives.Store(&cfg.Certs)
	k.renewer = &certs.Renewer{Data: cfg.Data, Life: func() time.Duration { return time.Duration(k.lives.Load().Sensor) }}
	looked := k.files()
	loaded, err := certs.LoadTrust(cfg.Data)
	if err != nil {
		return nil, err
	}
	k.looked = looked
	k.inForce.Store(loaded)
	return k, nil
}

// decide hands the broker its decisions about trust, each of which is made
// anew by what is in force at the time.
func (k *keeper) decide(o *broker.Options) {
	k.audit = o.Audit
	o.IntakeTLS = certs.WithJoining(certs.Following(func() *tls.Config { return k.inForce.Load().IntakeTLS() }),
		func() *tls.Config { return k.inForce.Load().JoiningTLS() })
	o.Enroll = k.enrollment(o).Serve
	o.AnalystTLS = func(clientAuth string) (*tls.Config, error) {
		return certs.Following(func() *tls.Config { return k.inForce.Load().AnalystTLS(clientAuth) }), nil
	}
	o.Standing = func(chain []*x509.Certificate) error { return k.inForce.Load().Standing(chain) }
	o.Renew = k.renewer.Renew
	o.Expiry = func() time.Time { return k.inForce.Load().Relay().NotAfter() }
}

// tend is to be called every lookPace.
func (k *keeper) tend(now time.Time) {
	k.renew(now)
	k.look(now)
}

// look takes files into use that have changed. While they are of no use, what
// is in force stays, and is complained of once a minute.
func (k *keeper) look(now time.Time) {
	files := k.files()
	if files == k.looked {
		return
	}
	fresh, err := k.load()
	if err != nil {
		k.complain(now, slog.LevelError, "changed certificates or revocations are of no use; what was in force stays", err)
		k.revoke(files)
		return
	}
	k.looked, k.refused, k.complaint = files, "", ""
	k.use(fresh)
	k.log.Info("certificates and revocations loaded anew")
}

// revoke takes at least the revocations into use where the files are of no use
// as a whole: a relay whose own certificate has expired has sessions still.
func (k *keeper) revoke(files string) {
	if files == k.refused {
		return
	}
	k.refused = files
	if t, err := k.inForce.Load().Revoking(k.data); err == nil {
		k.use(t)
	}
}

// load reads what could take the place of what is in force.
func (k *keeper) load() (*certs.Trust, error) {
	fresh, err := certs.LoadTrust(k.data)
	if err != nil {
		return nil, err
	}
	if err := fresh.Valid(); err != nil {
		return nil, err
	}
	return fresh, fresh.Follows(k.inForce.Load())
}

// use puts a trust in force, for whoever connects and whoever is connected.
func (k *keeper) use(t *certs.Trust) {
	if leaf := t.Relay().Certificate().Leaf; !leaf.Equal(k.inForce.Swap(t).Relay().Certificate().Leaf) {
		k.audit.Write(certified(audit.Entry{Event: audit.Renewed, Actor: "relay"}, leaf))
	}
	k.broker.TrustChanged(t.Announcement())
}

// files describes the files that trust is made of, as they are now.
func (k *keeper) files() (out string) {
	for _, name := range []string{certs.RelayCert, certs.RelayKey, certs.CAFile, certs.BridgeFile, certs.RevocationsFile} {
		if info, err := os.Stat(filepath.Join(k.data, name)); err == nil {
			out += fmt.Sprint(name, info.ModTime().UnixNano(), info.Size(), info.Mode(), ";")
		}
	}
	return out
}

// renew has the relay's certificate replaced when it is due. Look finds the
// new one.
func (k *keeper) renew(now time.Time) {
	t := k.inForce.Load()
	if now.Before(k.again) || !t.RelayDue(now) {
		return
	}
	life := time.Duration(k.lives.Load().Relay)
	k.again = now.Add(min(time.Minute, life/20))
	renewed, err := certs.RenewRelay(k.data, now, life)
	if err != nil {
		k.audit.Refuse("relay", audit.Entry{Event: audit.RenewalRefused, Actor: "relay", Reason: err.Error()})
	}
	switch {
	case renewed && err == nil:
		k.log.Info("the relay has renewed its own certificate", "life", life.String())
	case err != nil && endangered(t.Relay(), now):
		k.complain(now, slog.LevelError, fmt.Sprintf("the relay's certificate expires at %s and cannot be renewed", t.Relay().NotAfter().UTC().Format(time.RFC3339)), err)
	case err != nil:
		k.complain(now, slog.LevelWarn, "the relay's certificate cannot be renewed", err)
	}
}

// endangered says whether less than a sixth of a certificate's life is left:
// half of the time that there is for renewing it.
func endangered(pair *certs.Keypair, now time.Time) bool {
	leaf := pair.Certificate().Leaf
	return now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 6))
}

// complain says a thing at once, and the same thing once a minute.
func (k *keeper) complain(now time.Time, level slog.Level, what string, err error) {
	text := what + err.Error()
	if text == k.complaint && now.Sub(k.said) < time.Minute {
		return
	}
	k.complaint, k.said = text, now
	k.log.Log(context.Background(), level, what, "data", k.data, "error", err)
}
