package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"poip/internal/pcap"
)

// A kind parses a payload and writes what it found as a frame again.
var kinds = map[Type]func(payload []byte) (any, []byte, error){
	TypeHello:    again(ParseHello, AppendHello),
	TypeHelloAck: again(ParseHelloAck, AppendHelloAck),
	TypeRefusal:  again(ParseRefusal, AppendRefusal),
	TypeGap:      again(ParseGap, AppendGap),
	TypeAck:      again(ParseAck, AppendAck),
	TypeStats:    again(ParseStats, AppendStats),
	TypeEnd:      again(ParseEnd, AppendEnd),

	TypeRenew:       again(ParseRenew, AppendRenew),
	TypeCertificate: again(ParseCertificate, AppendCertificate),
	TypeTrust:       again(ParseTrust, AppendTrust),
	TypeBatch: func(payload []byte) (any, []byte, error) {
		header, records := payload[:BatchHeaderLen], payload[BatchHeaderLen:]
		if err := VerifyBatch(header, records); err != nil {
			return nil, nil, err
		}
		frame := append(make([]byte, BatchPrefixLen), records...)
		SealBatch(frame, ParseBatchHeader(header))
		return ParseBatchHeader(header), frame, nil
	},
}

func again[F any](parse func([]byte) (F, error), write func([]byte, F) []byte) func([]byte) (any, []byte, error) {
	return func(payload []byte) (any, []byte, error) {
		f, err := parse(payload)
		return f, write(nil, f), err
	}
}

func TestFramesComeBackAsTheyWent(t *testing.T) {
	e := Epoch{1, 2, 3}
	for _, c := range []struct {
		frame []byte
		want  any
	}{
		{AppendHello(nil, Hello{Version: 1, LinkType: 276, Snaplen: 1, Epoch: e, Oldest: math.MaxUint64, SentAt: -1}),
			Hello{Version: 1, LinkType: 276, Snaplen: 1, Epoch: e, Oldest: math.MaxUint64, SentAt: -1}},
		{AppendHelloAck(nil, HelloAck{1, 2, 3, 4, 5}), HelloAck{1, 2, 3, 4, 5}},
		{AppendRefusal(nil, Refusal{CodeHole, "x"}), Refusal{CodeHole, "x"}},
		{AppendGap(nil, Gap{1, 0, CauseAgentCrash, -5, 9}), Gap{1, 0, CauseAgentCrash, -5, 9}},
		{AppendAck(nil, Ack{5, true}), Ack{5, true}},
		{AppendStats(nil, Stats{1, 2, 3, 4, 5, 6}), Stats{1, 2, 3, 4, 5, 6}},
		{AppendEnd(nil, End{7, true}), End{7, true}},
		{AppendEnd(nil, End{7, false}), End{7, false}},
		{AppendRenew(nil, Renew{[]byte("csr")}), Renew{[]byte("csr")}},
		{AppendCertificate(nil, Certificate{Chain: [][]byte{{1}, {2, 3}}, Reason: "left out"}), Certificate{Chain: [][]byte{{1}, {2, 3}}}},
		{AppendCertificate(nil, Certificate{Reason: "no"}), Certificate{Reason: "no"}},
		{AppendTrust(nil, Trust{[][]byte{{1}, {2}}}), Trust{[][]byte{{1}, {2}}}},
	} {
		got, frame, err := kinds[Type(c.frame[0])](c.frame[FrameHeaderLen:])
		if err != nil || !reflect.DeepEqual(got, c.want) || !bytes.Equal(frame, c.frame) {
			t.Errorf("sent %+v, came back as %+v: %v", c.want, got, err)
		}
	}
}

func TestTextsAreCutToTheirBounds(t *testing.T) {
	long := strings.Repeat("é", 2000)
	frame := AppendHello(nil, Hello{Version: 1, Snaplen: 1, Stream: long, Interface: long, Agent: long})
	h, err := ParseHello(frame[FrameHeaderLen:])
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Stream) != MaxStreamLen || len(h.Interface) != MaxDescriptionLen || len(h.Agent) != MaxAgentLen {
		t.Errorf("texts of %d, %d and %d bytes", len(h.Stream), len(h.Interface), len(h.Agent))
	}
}

func TestHelloOfALaterVersionIsUnderstood(t *testing.T) {
	later := AppendHello(nil, Hello{Version: 2, Snaplen: 1, Stream: "a/b"})[FrameHeaderLen:]
	if h, err := ParseHello(append(later, "something new"...)); err != nil || h.Stream != "a/b" {
		t.Errorf("version 2 with more fields: %+v, %v", h, err)
	}
	now := AppendHello(nil, Hello{Version: 1, Snaplen: 1, Stream: "a/b"})[FrameHeaderLen:]
	if _, err := ParseHello(append(now, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("version 1 with one byte more: %v", err)
	}
}

func TestPayloadsOutOfBoundsAreRefused(t *testing.T) {
	hello := func(h Hello) []byte { return AppendHello(nil, h) }
	for _, c := range []struct {
		name  string
		frame []byte
	}{
		{"hello of version 0", hello(Hello{Version: 0, Snaplen: 1})},
		{"hello without snaplen", hello(Hello{Version: 1, Snaplen: 0})},
		{"hello with a huge snaplen", hello(Hello{Version: 1, Snaplen: pcap.MaxCaptured + 1})},
		{"gap that overflows", AppendGap(nil, Gap{First: math.MaxUint64, Count: 2})},
		{"gap with reserved bytes", flip(AppendGap(nil, Gap{}), FrameHeaderLen+20)},
		{"hello-ack with reserved bytes", flip(AppendHelloAck(nil, HelloAck{}), FrameHeaderLen+2)},
		{"ack with a flag of 2", flip(AppendAck(nil, Ack{}), FrameHeaderLen+8, 2)},
		{"end with a flag of 255", flip(AppendEnd(nil, End{}), FrameHeaderLen+8, 255)},
		{"renew without a request", AppendRenew(nil, Renew{})},
		{"renew of a request too long", AppendRenew(nil, Renew{make([]byte, MaxRequestLen+1)})},
		{"certificate without chain and reason", AppendCertificate(nil, Certificate{})},
		{"chain and reason", append(AppendCertificate(nil, Certificate{Chain: [][]byte{{1}}})[:FrameHeaderLen+5], 1, 0, 'x')},
		{"an empty certificate in the chain", AppendCertificate(nil, Certificate{Chain: [][]byte{{1}, {}}})},
		{"trust in nobody", AppendTrust(nil, Trust{})},
		{"too many authorities", AppendTrust(nil, Trust{make([][]byte, MaxCertificates+1)})},
		{"a count without certificates", flip(AppendTrust(nil, Trust{[][]byte{{1}}}), FrameHeaderLen, 2)},
		{"refusal with a long text", flip(AppendRefusal(nil, Refusal{Reason: strings.Repeat("x", MaxReasonLen)}), FrameHeaderLen+2, 1)},
	} {
		if _, _, err := kinds[Type(c.frame[0])](c.frame[FrameHeaderLen:]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEveryTornPayloadIsRefused(t *testing.T) {
	for name, frame := range vectors() {
		payload := frame[FrameHeaderLen:]
		for n := range payload {
			if Type(frame[0]) == TypeBatch && n < BatchHeaderLen {
				continue // ReadHeader refuses these
			}
			if _, _, err := kinds[Type(frame[0])](payload[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, _, err := kinds[Type(frame[0])](append(bytes.Clone(payload), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
	}
}

func TestEveryFlippedBitOfABatchIsFound(t *testing.T) {
	payload := vectors()["batch"][FrameHeaderLen:]
	for i := range len(payload) * 8 {
		payload[i/8] ^= 1 << (i % 8)
		if err := VerifyBatch(payload[:BatchHeaderLen], payload[BatchHeaderLen:]); !errors.Is(err, ErrMalformed) {
			t.Errorf("bit %d: %v", i, err)
		}
		payload[i/8] ^= 1 << (i % 8)
	}
}

func TestBatchesThatLieAreRefused(t *testing.T) {
	record := pcap.AppendRecord(nil, 1, 2, 3, []byte{1, 2, 3})
	for _, c := range []struct {
		name    string
		header  BatchHeader
		records []byte
	}{
		{"too many", BatchHeader{Count: 2}, record},
		{"none", BatchHeader{Count: 0}, record},
		{"overflow", BatchHeader{First: math.MaxUint64, Count: 1}, record},
		{"torn record", BatchHeader{Count: 1}, record[:len(record)-1]},
		{"captured more than there was", BatchHeader{Count: 1}, pcap.AppendRecord(nil, 1, 2, 2, []byte{1, 2, 3})},
		{"a billion nanoseconds", BatchHeader{Count: 1}, pcap.AppendRecord(nil, 1, 1e9, 3, []byte{1, 2, 3})},
		{"nothing captured", BatchHeader{Count: 1}, pcap.AppendRecord(nil, 1, 2, 3, nil)},
	} {
		frame := append(make([]byte, BatchPrefixLen), c.records...)
		SealBatch(frame, c.header)
		if err := VerifyBatch(frame[FrameHeaderLen:BatchPrefixLen], frame[BatchPrefixLen:]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestHeadersOutOfBoundsAreRefused(t *testing.T) {
	header := func(t Type, length uint32) []byte {
		return binary.LittleEndian.AppendUint32([]byte{byte(t), 0, 0, 0}, length)
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"type 0", header(0, 1), ErrMalformed},
		{"type 12", header(12, 1), ErrMalformed},
		{"reserved byte 1", flip(header(TypeAck, 9), 1), ErrMalformed},
		{"reserved byte 2", flip(header(TypeAck, 9), 2), ErrMalformed},
		{"reserved byte 3", flip(header(TypeAck, 9), 3), ErrMalformed},
		{"empty batch", header(TypeBatch, BatchHeaderLen), ErrMalformed},
		{"largest batch", header(TypeBatch, MaxBatchLen), nil},
		{"larger batch", header(TypeBatch, MaxBatchLen+1), ErrMalformed},
		{"batch of 4 GiB", header(TypeBatch, math.MaxUint32), ErrMalformed},
		{"largest control frame", header(TypeHello, MaxControlLen), nil},
		{"larger control frame", header(TypeHello, MaxControlLen+1), ErrMalformed},
		{"control frame of 2 GiB", header(TypeAck, 1<<31), ErrMalformed},
		{"nothing", nil, io.EOF},
		{"half a header", header(TypeAck, 9)[:4], io.ErrUnexpectedEOF},
	} {
		var buf [FrameHeaderLen]byte
		if h, err := ReadHeader(bytes.NewReader(c.bytes), &buf); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v; want %v", c.name, h, err, c.want)
		}
	}
}

// flip sets the byte at i, to 1 where no other value is given.
func flip(b []byte, i int, to ...byte) []byte {
	b[i] = append(to, 1)[0]
	return b
}

func TestNames(t *testing.T) {
	seen := map[string]bool{"unknown": true}
	for _, c := range Causes {
		if seen[c.String()] {
			t.Errorf("cause %d is called %q, which is taken", c, c)
		}
		seen[c.String()] = true
	}
	for c := CodeVersion; c <= CodeExpired; c++ {
		if seen[c.String()] {
			t.Errorf("code %d is called %q, which is taken", c, c)
		}
		seen[c.String()] = true
	}
	if Cause(99).String() != "unknown" || Code(0).String() != "unknown" {
		t.Error("values of later versions have no name")
	}
	if got := (Refusal{CodeForbidden, "a\n\x1b"}).Error(); got != `refused by relay (forbidden): "a\n\x1b"` {
		t.Errorf("refusal reads %s", got)
	}
}
