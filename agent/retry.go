package agent

import (
	"errors"
	"math/rand/v2"
	"time"

	"poip/internal/wire"
)

// Delays of reconnecting. PROTOCOL.md, sections 7 and 9, has them too.
const (
	leastDelay    = 250 * time.Millisecond
	mostDelay     = 15 * time.Second
	fencedDelay   = 30 * time.Second // so that two clones do not fight at full speed
	refusedDelay  = 60 * time.Second // until somebody has changed something
	healthyAfter  = 10 * time.Second // a session that lasted so long was not a failure
	stoppingDelay = leastDelay       // at most, once the agent is to stop
)

// A backoff doubles from one failure to the next.
type backoff struct{ least, most, next time.Duration }

// step returns the next delay.
func (b *backoff) step() time.Duration {
	d := max(b.next, b.least)
	b.next = min(2*d, b.most)
	return d
}

// jittered returns a random part of the next delay ("full jitter"), so that
// many agents do not return at the same moment.
func (b *backoff) jittered() time.Duration { return rand.N(b.step()) } // #nosec G404 -- a pause is no secret

func (b *backoff) reset() { b.next = 0 }

// floorOf is how long to wait at least after an error, whatever the backoff
// says.
func floorOf(err error) time.Duration {
	switch codeOf(err) {
	case wire.CodeFenced:
		return fencedDelay
	case wire.CodeVersion, wire.CodeForbidden, wire.CodeRevoked:
		return refusedDelay
	}
	return 0
}

// tryNext says whether the next endpoint is worth a try before any pause. A
// session that broke begins again with the first.
func tryNext(healthy bool, err error) bool {
	switch codeOf(err) {
	case 0:
		return !healthy
	case wire.CodeFenced:
		return false
	}
	return true
}

// codeOf is the code of a refusal, or 0.
func codeOf(err error) wire.Code {
	var refusal wire.Refusal
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return 0
}

// remedyOf says what an operator can do about a refusal.
func remedyOf(err error) string {
	switch codeOf(err) {
	case wire.CodeVersion:
		return "update the older of agent and relay"
	case wire.CodeForbidden:
		return "check on the relay that this sensor's certificate was issued there, for this name, and is not revoked"
	case wire.CodeRevoked, wire.CodeExpired:
		return "let this sensor join anew: on the relay poip-relay token SENSOR --replace, here poip-agent enroll --replace; until then what is captured is kept as far as there is room"
	case wire.CodeFenced:
		return "another agent uses the same identity and stream: stop it, or give each sensor an identity of its own (poip-relay issue)"
	case wire.CodeLimit:
		return "raise the relay's limits, or capture less"
	case wire.CodeProtocol, wire.CodeHole, wire.CodeCorrupt:
		return "agent and relay do not understand each other: please report this with both versions"
	}
	return ""
}
