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
// listener's configuration. For each subscriber, and so for all,
// offered = sent + skipped + pending.
type tally struct {
	sent      atomic.Uint64 // packets
	sentBytes atomic.Uint64 // of records, as they were written
	skipped   [skips]atomic.Uint64
	offered   atomic.Uint64 // to subscribers that have left; guarded by Broker.mu together with theirs
	connected atomic.Uint64 // connections that were let in
	evicted   atomic.Uint64 // of these, by policy
	away      [aways]atomic.Uint64
}
