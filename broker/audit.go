package broker

import (
	"errors"
	"net"
	"time"

	"poip/auth"
	"poip/internal/audit"
	"poip/internal/wire"
)

// This file is what the relay writes into the audit log about those who come,
// go, and are turned away.

// auditArrival says who begins to read what.
func (b *Broker) auditArrival(s *subscriber, d *door) {
	b.opts.Audit.Write(b.auditVisit(audit.ReadBegun, s, d))
}

// auditDeparture says what an analyst got. The subscriber has ended.
func (b *Broker) auditDeparture(s *subscriber, d *door, reason string) {
	e := b.auditVisit(audit.ReadEnded, s, d)
	now := time.Now().UTC()
	packets, bytes, skipped := s.sent.Load(), s.sentBytes.Load(), s.skipped.Load()
	e.To, e.Packets, e.Bytes, e.Skipped, e.Reason = &now, &packets, &bytes, &skipped, reason
	b.opts.Audit.Write(e)
}

func (b *Broker) auditVisit(event audit.Event, s *subscriber, d *door) audit.Entry {
	since := s.since.UTC()
	return audit.Entry{
		Event: event, Analyst: s.visit.analyst(), Remote: s.remote, Listener: d.listener.name(),
		Network: d.network(), Streams: b.shownTo(s), From: &since,
	}
}

func (b *Broker) shownTo(s *subscriber) (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range s.visit.shown {
		out = append(out, name.String())
	}
	return out
}

func (d *door) network() string {
	if d.tls == nil {
		return "plain"
	}
	return "tls"
}

// auditStranger says who was not let in at a listener.
func (b *Broker) auditStranger(d *door, conn net.Conn, who auth.AnalystName, why turnedAway, reason error) {
	b.opts.Audit.Refuse(why.String(), audit.Entry{
		Event: audit.ReadRefused, Analyst: string(who), Remote: conn.RemoteAddr().String(), Listener: d.listener.name(),
		Network: d.network(), Reason: reason.Error(),
	})
}

// auditAgentStranger says who did not get through the handshake at the intake.
func (b *Broker) auditAgentStranger(remote net.Addr, network string, reason error) {
	b.refusedAgents.Add(1)
	b.opts.Audit.Refuse("handshake", audit.Entry{Event: audit.AgentRefused, Remote: remote.String(), Network: network, Reason: reason.Error()})
}

// auditAgent says which agent was refused something.
func (b *Broker) auditAgent(sensor auth.SensorName, remote net.Addr, network string, code wire.Code, reason error) {
	b.refusedAgents.Add(1)
	b.opts.Audit.Refuse(code.String(), audit.Entry{
		Event: audit.AgentRefused, Sensor: string(sensor), Remote: remote.String(), Network: network, Reason: reason.Error(),
	})
}

// codeOf is the code of a refusal.
func codeOf(err error) wire.Code {
	var refusal wire.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return wire.CodeProtocol
}

func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
