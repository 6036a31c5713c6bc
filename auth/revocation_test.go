package auth

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestRevocationsComeBackAsTheyWent(t *testing.T) {
	key := strings.Repeat("ab", 32)
	when := time.Unix(1700000000, 0).UTC()
	var r Revocations
	r.AddCertificate(RevokedCertificate{Identity: "poip://sensor/branch-7", Serial: "01ff", Key: key, When: when})
	r.AddCertificate(RevokedCertificate{Identity: "poip://sensor/branch-7", Serial: "01ff", Key: key, When: when.Add(time.Hour)})
	r.AddName(RevokedName{Identity: "poip://sensor/branch-8", When: when})
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRevocations(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Certificates) != 1 || !again.Certificates[0].When.Equal(when) || len(again.Names) != 1 {
		t.Errorf("came back as %+v", again)
	}
	for _, c := range []struct {
		serial, key string
		want        bool
	}{{"01ff", key, true}, {"01ff", "other", true}, {"02", key, true}, {"02", "other", false}, {"", "", false}} {
		if again.Certificate(c.serial, c.key) != c.want {
			t.Errorf("serial %q, key %.4q: revoked %t", c.serial, c.key, !c.want)
		}
	}
	if !again.Name("poip://sensor/branch-8") || again.Name("poip://sensor/branch-7") || again.Name("poip://sensor/Branch-8") {
		t.Error("another name is revoked")
	}
	if none := new(Revocations); none.Certificate("01ff", key) || none.Name("poip://sensor/branch-8") {
		t.Error("the zero value revokes")
	}
}

// FuzzRevocations: whatever is accepted is written again with the same
// meaning, and nothing that looks like a revocation is passed over.
func FuzzRevocations(f *testing.F) {
	key := strings.Repeat("0a", 32)
	f.Add([]byte(`{"version":1,"certificates":[{"identity":"poip://sensor/a","serial":"0b","spki":"` + key + `","when":"2023-11-14T22:13:20Z"}],"names":[]}`))
	f.Add([]byte(`{"version":1,"certificates":null,"names":[{"identity":"poip://sensor/a","when":"2023-11-14T22:13:20Z"}]}`))
	f.Add([]byte(`{"version":1}{"version":1}`))
	f.Add([]byte(`{"version":1,"certificates":[{"serial":"0B"}]}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRevocations(text)
		if err != nil {
			return
		}
		for _, c := range r.Certificates {
			if !r.Certificate(c.Serial, "") || !r.Certificate("", c.Key) {
				t.Errorf("%+v is listed and not revoked", c)
			}
		}
		for _, n := range r.Names {
			if !r.Name(n.Identity) {
				t.Errorf("%+v is listed and not revoked", n)
			}
		}
		written, err := r.Encode()
		if err != nil {
			return // a time that JSON cannot hold
		}
		again, err := ParseRevocations(written)
		if err != nil {
			t.Fatalf("cannot read what was written: %v\n%s", err, written)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, written) {
			t.Errorf("written\n%s, then\n%s", written, twice)
		}
	})
}
