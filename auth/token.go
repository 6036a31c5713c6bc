package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A Token joins one sensor to one relay, once. It is written as one line,
// which an operator carries from the relay to the sensor:
//
//	poip-token-1 sensor=NAME relay=NAME at=URL,URL ca=sha256:PIN secret=SECRET
//
// Whoever has the line may become that sensor, until it is used or expires.
// It comes from standard input, a file or a prompt; never from an argument or
// the environment, which others on the machine can read.
type Token struct {
	Sensor    SensorName
	Relay     string   // the name in the relay's certificate
	Endpoints []string // where the relay is reached, in the order to try
	Pin       Pin
	Secret    Secret
}

// Bounds of a token's line.
const (
	MaxTokenLen       = 2048 // in bytes
	MaxTokenEndpoints = 16
)

const tokenWord = "poip-token-1"

// Pin is the SHA-256 of a CA's SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// Secret is 256 random bits. It never prints as itself.
type Secret struct{ bits [32]byte }

// NewSecret draws a secret.
func NewSecret() (s Secret) {
	rand.Read(s.bits[:]) // never fails
	return s
}

// Format keeps every verb from printing the secret.
func (Secret) Format(f fmt.State, _ rune) { f.Write([]byte("[secret]")) }

// MarshalText keeps encoders and logs from writing the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Line is the token as it is carried, with its secret, without a line break.
func (t Token) Line() string {
	encode := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{tokenWord, "sensor=" + string(t.Sensor), "relay=" + t.Relay, "at=" + strings.Join(t.Endpoints, ","),
		"ca=sha256:" + encode(t.Pin[:]), "secret=" + encode(t.Secret.bits[:])}, " ")
}

// Check says what keeps a token from being written and read again.
func (t Token) Check() error {
	if _, err := ParseToken(t.Line()); err != nil {
		return err
	}
	return nil
}

var errNoToken = errors.New("this is no token: give the whole line that poip-relay token has printed, poip-token-1 … secret=…")

// ParseToken reads a token's line; white space around it is passed over. What
// it takes, Line writes again. Its errors hold nothing of the line.
func ParseToken(line string) (t Token, err error) {
	line = strings.TrimSpace(line)
	words := strings.Split(line, " ")
	if len(line) > MaxTokenLen || len(words) != 6 || words[0] != tokenWord {
		return Token{}, errNoToken
	}
	var values [5]string
	for i, key := range []string{"sensor=", "relay=", "at=", "ca=sha256:", "secret="} {
		value, ok := strings.CutPrefix(words[i+1], key)
		if !ok {
			return Token{}, errNoToken
		}
		values[i] = value
	}
	if checkName(values[0]) != nil || !plain(values[1], 253) {
		return Token{}, fmt.Errorf("the token is damaged: its names are not well formed; %w", errNoToken)
	}
	t.Sensor, t.Relay, t.Endpoints = SensorName(values[0]), values[1], strings.Split(values[2], ",")
	if len(t.Endpoints) > MaxTokenEndpoints {
		return Token{}, fmt.Errorf("the token has more than %d addresses", MaxTokenEndpoints)
	}
	for _, e := range t.Endpoints {
		if !plain(e, 300) {
			return Token{}, fmt.Errorf("the token is damaged: an address is not well formed; %w", errNoToken)
		}
	}
	if !decode(t.Pin[:], values[3]) || !decode(t.Secret.bits[:], values[4]) {
		return Token{}, fmt.Errorf("the token is damaged: it was not copied whole; %w", errNoToken)
	}
	return t, nil
}

// plain takes what hosts, addresses and URLs are made of.
func plain(s string, most int) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c > '~' || c == ',' {
			return false
		}
	}
	return s != "" && len(s) <= most
}

func decode(dst []byte, text string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && !strings.ContainsAny(text, "\r\n") && copy(dst, b) == len(dst) && len(b) == len(dst)
}

// How a token is proven. From the secret S both the sensor's and the relay's
// side are derived, as in SCRAM (RFC 5802, 3):
//
//	ID       = HKDF-SHA256(S, info "poip-enroll/1 id", 16 bytes)
//	Key      = HKDF-SHA256(S, info "poip-enroll/1 key", 32 bytes)
//	Verifier = SHA-256(Key)
//	Proof    = Key XOR HMAC-SHA256(Verifier, exporter ‖ length(sensor) ‖ sensor ‖ CSR)
//
// The relay keeps ID and Verifier. It undoes the XOR, and takes the proof if
// what remains hashes to the Verifier. So S crosses no wire, and a proof is of
// use for one TLS session, one sensor's name and one CSR only.
//
// A thief who reads the relay's tokens learns which sensors are about to join,
// and no more: a proof needs Key, and neither Key nor S follow from a hash of
// 256 random bits. To use a Verifier, he had to see, within TLS, a proof that
// was made for the relay; for that he would have to be the relay, whose key
// the sensor verifies by the pin before it derives anything from S.

// TokenID names a token. It is not secret.
type TokenID [16]byte

func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// Verifier is what the relay keeps of a token.
type Verifier [sha256.Size]byte

// Proof shows that somebody has the token's secret.
type Proof [sha256.Size]byte

// Claim is what a proof is about.
type Claim struct {
	Exporter []byte // keying material of the TLS session: 32 bytes
	Sensor   SensorName
	CSR      []byte
}

func (s Secret) derive(info string, n int) []byte {
	key, err := hkdf.Key(sha256.New, s.bits[:], nil, info, n)
	if err != nil {
		panic(err) // of a length that SHA-256 does not give
	}
	return key
}

// ID is the name of the secret's token.
func (s Secret) ID() TokenID { return TokenID(s.derive("poip-enroll/1 id", 16)) }

func (s Secret) key() [sha256.Size]byte {
	return [sha256.Size]byte(s.derive("poip-enroll/1 key", sha256.Size))
}

// Verifier is what a relay has to know to check a proof.
func (s Secret) Verifier() Verifier { return sha256.Sum256(slice(s.key())) }

// Prove makes the proof for a claim.
func (s Secret) Prove(c Claim) Proof { return s.Verifier().blind(s.key(), c) }

// Check says whether whoever made the proof for this claim has the secret.
func (v Verifier) Check(p Proof, c Claim) bool {
	sum := sha256.Sum256(slice(v.blind(p, c)))
	return len(c.Exporter) == sha256.Size && subtle.ConstantTimeCompare(sum[:], v[:]) == 1
}

// blind is its own inverse.
func (v Verifier) blind(key [sha256.Size]byte, c Claim) (out [sha256.Size]byte) {
	mac := hmac.New(sha256.New, v[:])
	mac.Write(c.Exporter)
	mac.Write([]byte{byte(len(c.Sensor))})
	mac.Write([]byte(c.Sensor))
	mac.Write(c.CSR)
	subtle.XORBytes(out[:], key[:], mac.Sum(nil))
	return out
}

func slice(b [sha256.Size]byte) []byte { return b[:] }
