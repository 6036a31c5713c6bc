package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"poip/internal/wire"
)

// keeping is a Renewal whose certificate lives for an hour and is due.
func keeping(t *testing.T) (r *Renewal, accepted *[][]byte, log *bytes.Buffer) {
	t.Helper()
	accepted, log = new([][]byte), new(bytes.Buffer)
	now := time.Now()
	return &Renewal{
		Life:    func() (from, to time.Time) { return now, now.Add(time.Hour) },
		Due:     func(time.Time) bool { return true },
		Request: func() ([]byte, error) { return []byte("csr"), nil },
		Accept: func(chain [][]byte) error {
			*accepted = chain
			return nil
		},
		Trust: func(authorities [][]byte) (bool, error) { return string(authorities[0]) == "new", nil },
		Log:   slog.New(slog.NewTextHandler(log, nil)),
	}, accepted, log
}

// payloadOf is a frame without its header.
func payloadOf(frame []byte) []byte { return frame[wire.FrameHeaderLen:] }

func TestOneSessionAtATimeAsksForRenewal(t *testing.T) {
	r, accepted, _ := keeping(t)
	a, b := new(session), new(session)
	if string(r.ask(a)) != "csr" || r.ask(b) != nil || r.ask(a) != nil {
		t.Fatal("want one question, from whoever comes first")
	}
	r.left(b)
	if r.ask(b) != nil {
		t.Error("another one's end lets the question be asked again")
	}
	r.left(a)
	if r.ask(b) == nil {
		t.Error("the end of who asked does not")
	}
	if err := r.answered(a, payloadOf(wire.AppendCertificate(nil, wire.Certificate{Chain: [][]byte{{1}}}))); !errors.Is(err, wire.ErrMalformed) || *accepted != nil {
		t.Errorf("an answer to nobody's question: %v", err)
	}
	if err := r.answered(b, payloadOf(wire.AppendCertificate(nil, wire.Certificate{Chain: [][]byte{{1}}}))); err != nil || len(*accepted) != 1 {
		t.Errorf("the answer: %v, accepted %x", err, *accepted)
	}
}

// TestRefusedRenewalIsTriedAgainLater: it breaks nothing, and is told.
func TestRefusedRenewalIsTriedAgainLater(t *testing.T) {
	r, _, log := keeping(t)
	s := new(session)
	r.ask(s)
	if err := r.answered(s, payloadOf(wire.AppendCertificate(nil, wire.Certificate{Reason: "no \x1b key"}))); err != nil {
		t.Fatal(err)
	}
	if r.ask(s) != nil {
		t.Error("asks again at once")
	}
	if text := log.String(); !strings.Contains(text, "not renewed") || strings.Contains(text, "\x1b") {
		t.Errorf("the log says %q", text)
	}
	r.next = time.Now().Add(-time.Second)
	if r.ask(s) == nil {
		t.Error("does not ask again")
	}
	r.Accept = func([][]byte) error { return errors.New("disk full") }
	if err := r.answered(s, payloadOf(wire.AppendCertificate(nil, wire.Certificate{Chain: [][]byte{{1}}}))); err != nil || r.trouble == nil {
		t.Errorf("a certificate that cannot be kept: %v, %v", err, r.trouble)
	}
}

func TestNoRenewalListensAndSaysNothing(t *testing.T) {
	var r *Renewal
	if r.ask(new(session)) != nil {
		t.Error("asks")
	}
	r.left(new(session))
	if err := r.believe(payloadOf(wire.AppendTrust(nil, wire.Trust{Authorities: [][]byte{{1}}}))); err != nil {
		t.Error(err)
	}
	if err := r.believe([]byte{1}); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("half a frame: %v", err)
	}
}

func TestOtherAuthoritiesAreTold(t *testing.T) {
	r, _, log := keeping(t)
	for _, c := range []struct {
		authority, says string
	}{{"old", ""}, {"new", "announces other authorities"}} {
		log.Reset()
		if err := r.believe(payloadOf(wire.AppendTrust(nil, wire.Trust{Authorities: [][]byte{[]byte(c.authority)}}))); err != nil {
			t.Fatal(err)
		}
		if text := log.String(); (text == "") != (c.says == "") || !strings.Contains(text, c.says) {
			t.Errorf("%s: the log says %q", c.authority, text)
		}
	}
}

// TestUrgencyGrowsInTime: of a life of 12 hours, 4 are there for renewing.
func TestUrgencyGrowsInTime(t *testing.T) {
	from := time.Now()
	to := from.Add(12 * time.Hour)
	for after, want := range map[time.Duration]urgency{
		0: calm, 8 * time.Hour: calm, 10*time.Hour - time.Minute: calm, 10*time.Hour + time.Minute: late,
		11*time.Hour - time.Minute: late, 11*time.Hour + time.Minute: pressing, 12*time.Hour + time.Second: over,
	} {
		if got := urgencyOf(from, to, from.Add(after)); got != want {
			t.Errorf("after %s: %d, want %d", after, got, want)
		}
	}
}

func TestCodesOfCertificatesTellTheRemedy(t *testing.T) {
	for _, code := range []wire.Code{wire.CodeRevoked, wire.CodeExpired} {
		err := wire.Refusal{Code: code}
		if levelOf(err) != slog.LevelError || !strings.Contains(remedyOf(err), "poip-agent enroll") {
			t.Errorf("%s: %s, %q", code, levelOf(err), remedyOf(err))
		}
	}
	if floorOf(wire.Refusal{Code: wire.CodeRevoked}) != refusedDelay || floorOf(wire.Refusal{Code: wire.CodeExpired}) != 0 {
		t.Error("a revoked sensor comes back too soon, or one with a newer certificate too late")
	}
}
