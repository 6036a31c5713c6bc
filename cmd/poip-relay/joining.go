package main

import (
	"poip/broker"
	"poip/certs"
	"poip/internal/audit"
)

// enrollment is how this relay lets sensors join.
func (k *keeper) enrollment(o *broker.Options) *certs.Enrollment {
	return &certs.Enrollment{Data: k.data, Life: k.renewer.Life, Log: k.log, Audit: func(e certs.JoinEvent) { auditJoin(o.Audit, e) }}
}

// auditJoin writes down who joined, and who did not: by what they heard, so that
// many of one kind hide none of another.
func auditJoin(log *audit.Log, e certs.JoinEvent) {
	entry := audit.Entry{
		Time: e.When, Event: audit.SensorEnrolled, Sensor: string(e.Sensor), Remote: e.Remote, Network: e.Network,
		Token: e.Token, Serial: e.Serial, NotAfter: &e.End, Reason: e.Refused,
	}
	if e.Refused == "" {
		log.Write(entry)
		return
	}
	entry.Event, entry.NotAfter = audit.EnrollmentRefused, nil
	log.Refuse(e.Code.String(), entry)
}
