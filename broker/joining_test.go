package broker

import (
	"context"
	"crypto/tls"
	"testing"

	"poip/internal/transport"
)

// A joiner is a connection by the protocol of those without a certificate.
type joiner struct {
	transport.Conn // nil: whoever asks for more than what follows panics
	aborted        bool
}

func (*joiner) TLS() tls.ConnectionState {
	return tls.ConnectionState{NegotiatedProtocol: transport.ALPNJoin}
}

func (j *joiner) Abort() error {
	j.aborted = true
	return nil
}

// Fails without the first lines of converse: who joins would be taken for an
// agent, or, where nobody lets sensors join, be kept.
func TestWhoJoinsIsHandedOver(t *testing.T) {
	nobody := new(joiner)
	(&Broker{}).converse(t.Context(), nobody)
	if !nobody.aborted {
		t.Error("kept a connection that nobody serves")
	}
	var served transport.Conn
	somebody := new(joiner)
	(&Broker{opts: Options{Enroll: func(_ context.Context, c transport.Conn) { served = c }}}).converse(t.Context(), somebody)
	if served != somebody || somebody.aborted {
		t.Errorf("served %v, aborted %t", served, somebody.aborted)
	}
}
