package audit

import "time"

// An Event is the kind of a line.
type Event string

// The events. Names are for machines and do not change.
const (
	RelayStarted Event = "relay.started"
	RelayStopped Event = "relay.stopped"

	ReadBegun     Event = "read.begun"     // an analyst was let in
	ReadEnded     Event = "read.ended"     // and has gone; with what it got
	ReadRefused   Event = "read.refused"   // an analyst, or a stranger at a listener, was not let in
	AgentRefused  Event = "agent.refused"  // an agent, or a stranger at the intake, was not let in
	AdminRefused  Event = "admin.refused"  // a log-in or a request at the administration
	AdminAction   Event = "admin.action"   // an operator has changed something
	ConfigChanged Event = "config.changed" // a reload; with the keys
	ConfigRefused Event = "config.refused" // a reload that failed

	TokenMade         Event = "token.made"
	TokenCanceled     Event = "token.canceled"
	SensorEnrolled    Event = "sensor.enrolled"
	EnrollmentRefused Event = "enrollment.refused"
	Issued            Event = "certificate.issued" // by hand
	Renewed           Event = "certificate.renewed"
	RenewalRefused    Event = "renewal.refused"
	Revoked           Event = "certificate.revoked"
	AuthorityChanged  Event = "authority.changed" // the CA was rotated or retired

	// Withheld says that lines like those before it were counted, not written.
	Withheld Event = "withheld"
	// Lost says that lines could not be written, and are lost.
	Lost Event = "lost"
)

// An Entry is one line. Fields that say nothing are left out. Texts may hold
// what strangers have sent; JSON escapes it, and Write shortens it.
type Entry struct {
	Time  time.Time `json:"time"` // UTC; set by the log where it is zero
	Event Event     `json:"event"`

	// Who and where.
	Actor    string `json:"actor,omitempty"`    // the operator, or the command, that did it
	Analyst  string `json:"analyst,omitempty"`  // by certificate
	Sensor   string `json:"sensor,omitempty"`   // by certificate or token
	Remote   string `json:"remote,omitempty"`   // address and port
	Listener string `json:"listener,omitempty"` // its name
	Network  string `json:"network,omitempty"`  // tls, quic, plain

	// What was read.
	Streams []string   `json:"streams,omitempty"`
	From    *time.Time `json:"from,omitempty"`
	To      *time.Time `json:"to,omitempty"`
	Packets *uint64    `json:"packets,omitempty"` // sent
	Bytes   *uint64    `json:"bytes,omitempty"`   // of their records
	Skipped *uint64    `json:"skipped,omitempty"` // packets that were offered and not sent

	// Certificates.
	Token    string     `json:"token,omitempty"` // by which a sensor joins: its ID
	Serial   string     `json:"serial,omitempty"`
	KeyPin   string     `json:"spki_sha256,omitempty"`
	NotAfter *time.Time `json:"not_after,omitempty"`

	Keys   []string `json:"keys,omitempty"` // of the configuration, without values
	Of     Event    `json:"of,omitempty"`   // what was withheld
	Count  uint64   `json:"count,omitempty"`
	Reason string   `json:"reason,omitempty"`
}

// Bounds of what one line may hold, in bytes and in names. A relay has about a
// thousand streams.
const (
	maxText  = 512
	maxNames = 4096
)

// bounded shortens what others have a hand in.
func (e Entry) bounded() Entry {
	for _, s := range []*string{&e.Actor, &e.Analyst, &e.Sensor, &e.Remote, &e.Listener, &e.Network, &e.Token, &e.Serial, &e.KeyPin, &e.Reason} {
		if len(*s) > maxText {
			*s = (*s)[:maxText] + "…"
		}
	}
	if len(e.Streams) > maxNames {
		e.Streams = append(e.Streams[:maxNames:maxNames], "…")
	}
	return e
}
