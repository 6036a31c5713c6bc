package broker

import "sync/atomic"

// A skip says why packets were offered to an analyst and not sent. Its name
// is a label of metrics.
type skip int

const (
	skipOverrun    skip = iota // neither the ring nor the history had them any more
	skipDisconnect             // the connection ended before
	skipLinkType               // the listener carries another link type
	skipCorrupt                // the history was damaged there
	skips
)

func (s skip) String() string {
	return [skips]string{"overrun", "disconnect", "link_type", "history_corrupt"}[s]
}

// A turnedAway says why a connection was not let in; a label as well.
type turnedAway int

const (
	awayDenied    turnedAway = iota // by the allow list
	awayLimit                       // too many connections
	awayHandshake                   // TLS failed
	awayForbidden                   // by whom the certificate names
	aways
)

func (a turnedAway) String() string {
	return [aways]string{"denied", "limit", "handshake", "forbidden"}[a]
}

// A tally is the ledger of one listener. It outlives a change of the
// listener's configuration, and its doors. For each subscriber, and so for all,
// offered = sent + skipped + pending.
type tally struct {
	sent      atomic.Uint64 // packets
	sentBytes atomic.Uint64 // of records, as they were written
	skipped   [skips]atomic.Uint64
	connected atomic.Uint64 // connections that were let in
	evicted   atomic.Uint64 // of these, by policy
	away      [aways]atomic.Uint64

	// Guarded by Broker.mu.
	subscribers map[*subscriber]struct{} // that have not left, whatever became of their door
	offered     uint64                   // to those that have left
}

func newTally() *tally { return &tally{subscribers: make(map[*subscriber]struct{})} }

// balance adds up the ledger; for holders of Broker.mu. A packet is offered
// before it is sent or skipped, so who reads what was offered last finds no
// less; the rest is pending.
func (t *tally) balance(out *ListenerStatus) {
	out.Sent, out.SentBytes, out.Skipped = t.sent.Load(), t.sentBytes.Load(), make(map[string]uint64)
	settled := out.Sent
	for i := range skips {
		n := t.skipped[i].Load()
		out.Skipped[i.String()] = n
		settled += n
	}
	out.Offered = t.offered
	for s := range t.subscribers {
		offered, others := s.offered()
		out.Offered += offered
		out.Skipped[skipLinkType.String()] += others
		settled += others
	}
	out.Pending = out.Offered - settled
}
