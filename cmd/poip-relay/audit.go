package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"poip/auth"
	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
)

// openAudit opens the audit log that the configuration names; nil, if it names
// none.
func openAudit(cfg broker.Config, log *slog.Logger) (*audit.Log, error) {
	if cfg.Audit.File == "" {
		return nil, nil
	}
	return audit.Open(auditPath(cfg), audit.Options{Size: int64(cfg.Audit.Size), Keep: cfg.Audit.Keep, Log: log})
}

func auditPath(cfg broker.Config) string {
	if filepath.IsAbs(cfg.Audit.File) {
		return cfg.Audit.File
	}
	return filepath.Join(cfg.Data, cfg.Audit.File)
}

// auditRenewals notes what the relay signs for sensors over their sessions.
func auditRenewals(o *broker.Options, log *audit.Log) {
	renew := o.Renew
	if renew == nil {
		return
	}
	o.Renew = func(chain []*x509.Certificate, request []byte, remote string) ([]*x509.Certificate, error) {
		fresh, err := renew(chain, request, remote)
		sensor, _ := auth.SensorOf(chain[0]) // of a session that was let in
		e := audit.Entry{Event: audit.Renewed, Sensor: string(sensor), Remote: remote}
		if err != nil {
			e.Event, e.Reason = audit.RenewalRefused, err.Error()
			log.Refuse("renewal", e)
			return fresh, err
		}
		log.Write(certified(e, fresh[0]))
		return fresh, nil
	}
}

// certified adds what identifies a certificate.
func certified(e audit.Entry, cert *x509.Certificate) audit.Entry {
	end := cert.NotAfter.UTC()
	e.Serial, e.KeyPin, e.NotAfter = certs.SerialOf(cert), certs.KeyOf(cert), &end
	return e
}

// record notes what a command has done, in the audit log below data. That it
// cannot is told, and undoes nothing.
func record(stderr io.Writer, data string, e audit.Entry) {
	e.Actor = fmt.Sprintf("command of user %d", os.Getuid())
	if err := audit.Append(filepath.Join(data, audit.File), e); err != nil {
		fmt.Fprintln(stderr, "warning: not in the audit log:", err)
	}
}

// revokeFor does at the administration what the command revoke does.
func revokeFor(data string) func(broker.RevokeOrder) error {
	return func(o broker.RevokeOrder) error {
		if o.Serial != "" {
			_, _, err := certs.RevokeSerial(data, o.Serial)
			return err
		}
		var who certs.Subject
		if o.Analyst != "" {
			name, err := auth.ParseAnalystName(o.Analyst)
			if err != nil {
				return err
			}
			who = certs.AnalystSubject(name)
		} else {
			name, err := auth.ParseSensorName(o.Sensor)
			if err != nil {
				return err
			}
			who = certs.SensorSubject(name)
		}
		_, err := certs.RevokeName(data, who)
		return err
	}
}
