package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func someToken() Token {
	return Token{Sensor: "branch-7", Relay: "relay.example", Endpoints: []string{"tls://192.0.2.1:57011", "quic://[2001:db8::1]:57011"}, Pin: Pin{1, 2}, Secret: NewSecret()}
}

func TestTokenLineIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := someToken()
		want.Sensor = SensorName(rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`).Draw(t, "sensor"))
		want.Relay = rapid.StringMatching(`[a-z0-9.:-]{1,60}`).Draw(t, "relay")
		want.Endpoints = rapid.SliceOfN(rapid.StringMatching(`(tls|quic)://[a-z0-9.-]{1,40}:[1-9][0-9]{0,3}`), 1, MaxTokenEndpoints).Draw(t, "endpoints")
		copy(want.Secret.bits[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
		around := rapid.SampledFrom([]string{"", "\n", "\r\n", " ", "\t"}).Draw(t, "around")
		got, err := ParseToken(around + want.Line() + around)
		if err != nil || got.Line() != want.Line() || got.Secret != want.Secret {
			t.Fatalf("%v became %v, %v", want, got, err)
		}
	})
}

// A line that was not copied whole, or was changed, is refused here, before
// anything is asked of a relay; and the error shows none of it.
func TestDamagedTokensAreRefusedWithoutShowingThem(t *testing.T) {
	line := someToken().Line()
	bad := map[string]string{
		"empty": "", "another word": "poip-token-2" + line[12:], "twice": line + " " + line, "a second line": line + "\n" + line,
		"two spaces": strings.Replace(line, " relay", "  relay", 1), "another order": "poip-token-1 relay=r sensor=s at=tls://r ca=sha256: secret=",
		"a bad name": strings.Replace(line, "branch-7", "../x", 1), "an upper-case name": strings.Replace(line, "branch-7", "Branch", 1),
		"an escape": strings.Replace(line, "relay.example", "relay\x1b[2J", 1), "no address": strings.Replace(line, "tls://", ",tls://", 1),
		"another hash": strings.Replace(line, "sha256", "sha1", 1), "padding": line + "=", "a line break in it": line[:len(line)-9] + "\n" + line[len(line)-9:],
		"too long": strings.Replace(line, "relay.example", strings.Repeat("r", MaxTokenLen), 1), "unused bits": line[:len(line)-1] + "B",
	}
	for i := range line {
		bad[fmt.Sprintf("cut at %d", i)] = line[:i]
	}
	for what, text := range bad {
		got, err := ParseToken(text)
		if err == nil {
			t.Errorf("%s: was taken", what)
			continue
		}
		if got.Secret != (Secret{}) && got.Sensor != "" {
			t.Errorf("%s: gives %v beside its error", what, got)
		}
		secret := line[strings.Index(line, "secret=")+7:]
		if strings.Contains(err.Error(), secret[:20]) || strings.Contains(err.Error(), "branch") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: the error shows the line: %v", what, err)
		}
	}
}

// Fails without Secret.Format, or without Secret.MarshalText.
func TestSecretsDoNotPrint(t *testing.T) {
	token := someToken()
	var text bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&text, verb+" "+verb+"\n", token, token.Secret)
		fmt.Fprintf(&text, verb+" "+verb+"\n", &token, &token.Secret)
	}
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "token", token, "secret", token.Secret)
	slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "token", token, "secret", token.Secret)
	marshaled, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(marshaled)
	bits := token.Secret.bits[:]
	for _, form := range []string{
		base64.RawURLEncoding.EncodeToString(bits), base64.StdEncoding.EncodeToString(bits), hex.EncodeToString(bits), fmt.Sprint(bits), strings.Trim(fmt.Sprintf("%#v", bits), "[]byte{}"),
	} {
		if strings.Contains(strings.ToLower(text.String()), strings.ToLower(form)) {
			t.Errorf("the secret is printed as %s", form)
		}
	}
}

// A proof is good for its session, name and CSR, and for nothing else; what
// the relay keeps makes none.
func TestProofsAreBound(t *testing.T) {
	claim := Claim{Exporter: bytes.Repeat([]byte{7}, 32), Sensor: "branch-7", CSR: []byte("a request")}
	secret := NewSecret()
	proof, keeps := secret.Prove(claim), secret.Verifier()
	if !keeps.Check(proof, claim) {
		t.Fatal("the proof is refused")
	}
	for what, c := range map[string]Claim{
		"another session":       {bytes.Repeat([]byte{8}, 32), claim.Sensor, claim.CSR}, // mac.Write(c.Exporter)
		"no session":            {nil, claim.Sensor, claim.CSR},
		"another name":          {claim.Exporter, "branch-8", claim.CSR}, // mac.Write([]byte(c.Sensor))
		"another request":       {claim.Exporter, claim.Sensor, []byte("another")},
		"a shifted border":      {claim.Exporter, "branch-7a", []byte(" request")}, // the length of the name
		"a request that is cut": {claim.Exporter, claim.Sensor, claim.CSR[:5]},
	} {
		if keeps.Check(proof, c) {
			t.Errorf("the proof is good for %s", what)
		}
	}
	other := NewSecret()
	if keeps.Check(other.Prove(claim), claim) || other.Verifier().Check(proof, claim) || keeps.Check(Proof{}, claim) {
		t.Error("another secret's proof is taken")
	}
	// What a thief of the relay's file has in his hands.
	thief := keeps.blind(keeps, claim)
	if keeps.Check(Proof(thief), claim) || keeps.Check(Proof(keeps), claim) {
		t.Error("what the relay keeps is enough for a proof")
	}
	if again := secret; secret.ID() == other.ID() || secret.ID() != again.ID() {
		t.Error("tokens are not told apart by their names")
	}
	empty := Claim{Sensor: "branch-7"}
	if keeps.Check(secret.Prove(empty), empty) {
		t.Error("a proof that is bound to no session is taken")
	}
}

// The derivation is part of the protocol: PROTOCOL.md, "Joining".
func TestProofVector(t *testing.T) {
	var secret Secret
	for i := range secret.bits {
		secret.bits[i] = byte(i)
	}
	exporter := bytes.Repeat([]byte{0xee}, 32)
	keeps, proof := secret.Verifier(), secret.Prove(Claim{exporter, "branch-7", []byte("csr")})
	for _, c := range []struct{ what, got, want string }{
		{"id", secret.ID().String(), vectorID},
		{"verifier", hex.EncodeToString(keeps[:]), vectorVerifier},
		{"proof", hex.EncodeToString(proof[:]), vectorProof},
	} {
		if c.got != c.want {
			t.Errorf("%s is %s, want %s", c.what, c.got, c.want)
		}
	}
}

// Made by another implementation than this one (Python's hmac and hashlib).
const (
	vectorID       = "7215ee267e9f9faba3e67ea5fc01bb0e"
	vectorVerifier = "d31bf915edcf68a15df1bc421abfeaf47ad91e64f3da41c6440c78ea0aa83f2d"
	vectorProof    = "da42276cba23b153af780ec5ff2b1d72a9e86451dd113c205c7241d5a667af8b"
)

// What is taken is written again as it was, and holds nothing that could hurt
// a terminal; what is refused is not quoted.
func FuzzToken(f *testing.F) {
	f.Add(someToken().Line())
	f.Add("poip-token-1 sensor=a relay=b at=c ca=sha256:" + strings.Repeat("A", 43) + " secret=" + strings.Repeat("A", 43))
	f.Add("poip-token-1 sensor= relay= at= ca=sha256: secret=")
	f.Fuzz(func(t *testing.T, line string) {
		token, err := ParseToken(line)
		if err != nil {
			if len(line) > 20 && strings.Contains(err.Error(), line) {
				t.Errorf("the error quotes the line: %v", err)
			}
			return
		}
		if token.Line() != strings.TrimSpace(line) {
			t.Errorf("%q became %q", line, token.Line())
		}
		if !grammar.MatchString(string(token.Sensor)) || len(token.Endpoints) == 0 || len(token.Endpoints) > MaxTokenEndpoints {
			t.Errorf("took %v", token)
		}
		if strings.ContainsFunc(token.Line(), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("took %q", line)
		}
	})
}
