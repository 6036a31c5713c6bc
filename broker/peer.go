package broker

import (
	"crypto/tls"

	"poip/auth"
	"poip/internal/transport"
	"poip/internal/wire"
)

// This file is the QUIC connections of agents. Their sessions are streams of
// them, and looked after by themselves; but a connection lives without any, too.

// peersPerSensor bounds the QUIC connections of one sensor. An agent has one,
// and a second one while it renews its certificate; the others are left of a
// link that breaks again and again, and end when nothing was heard for 15 s.
const peersPerSensor = 16

// admitPeer lets a connection in, and keeps it until its certificate does not
// stand any more. It is handed to transport.
func (b *Broker) admitPeer(p *transport.Peer) (leave func(), err error) {
	sensor, err := b.sensorIn(p.TLS())
	if err == nil {
		leave, err = b.keepPeer(p, sensor)
	}
	if err != nil {
		b.mu.Lock()
		complaints := &b.rateOf(sensor).complaints
		b.mu.Unlock()
		complaints.Warn(b.log, "refused a QUIC connection", "sensor", string(sensor), "remote", p.RemoteAddr().String(), "reason", err.Error())
		b.auditAgent(sensor, p.RemoteAddr(), "quic", codeOf(err), err)
	}
	return leave, err
}

func (b *Broker) keepPeer(p *transport.Peer, sensor auth.SensorName) (leave func(), err error) {
	if !b.countPeer(sensor) {
		return nil, refuse(wire.CodeLimit, "sensor %s has %d QUIC connections already", sensor, peersPerSensor)
	}
	n, err := b.guard.enter("QUIC connection of sensor "+string(sensor), sensor, p.TLS().PeerCertificates, func(wire.Code) { p.End() })
	if err != nil {
		b.discountPeer(sensor)
		return nil, err
	}
	return func() {
		b.guard.leave(n)
		b.discountPeer(sensor)
	}, nil
}

func (b *Broker) countPeer(sensor auth.SensorName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connected.enter(sensor, peersPerSensor)
}

func (b *Broker) discountPeer(sensor auth.SensorName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.connected.leave(sensor)
}

// sensorIn names the sensor at the other end of a connection.
func (b *Broker) sensorIn(state tls.ConnectionState) (auth.SensorName, error) {
	if len(state.PeerCertificates) == 0 {
		return "", refuse(wire.CodeForbidden, "no certificate")
	}
	sensor, err := b.opts.SensorOf(state.PeerCertificates[0])
	if err != nil {
		return "", refuse(wire.CodeForbidden, "%s", err)
	}
	return sensor, nil
}

// A crowd counts what each sensor has of something that is bounded.
type crowd map[auth.SensorName]int

func (c crowd) enter(sensor auth.SensorName, most int) bool {
	if c[sensor] >= most {
		return false
	}
	c[sensor]++
	return true
}

func (c crowd) leave(sensor auth.SensorName) {
	if c[sensor]--; c[sensor] == 0 {
		delete(c, sensor)
	}
}
