package wire

import (
	"bytes"
	"io"
	"testing"
)

// FuzzFrameDecode reads arbitrary bytes as frames. Whatever is accepted must
// be written again as the same bytes, and no length may be taken on trust.
func FuzzFrameDecode(f *testing.F) {
	for _, frame := range vectors() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var buf [FrameHeaderLen]byte
		for {
			at := len(data) - r.Len()
			h, err := ReadHeader(r, &buf)
			if err != nil {
				return
			}
			if h.Length < 0 || h.Length > MaxBatchLen || h.Type != TypeBatch && h.Length > MaxControlLen {
				t.Fatalf("type %d may be %d bytes long", h.Type, h.Length)
			}
			payload := data[at+FrameHeaderLen:]
			if len(payload) < h.Length {
				return
			}
			payload = payload[:h.Length]
			r.Seek(int64(h.Length), io.SeekCurrent)
			_, frame, err := kinds[h.Type](payload)
			if err == nil && !later(h.Type, payload) && !bytes.Equal(frame, data[at:at+len(frame)]) {
				t.Fatalf("accepted\n%x, wrote\n%x", data[at:], frame)
			}
		}
	})
}

// later says whether a payload is a hello of a version after ours, whose
// further fields are passed over.
func later(t Type, payload []byte) bool {
	return t == TypeHello && (payload[0] > Version || payload[1] != 0)
}

// FuzzHello gives a relay's first sight of a stranger: the payload of a hello.
func FuzzHello(f *testing.F) {
	f.Add(vectors()["hello"][FrameHeaderLen:])
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, err := ParseHello(payload)
		if err != nil {
			return
		}
		if len(h.Stream) > MaxStreamLen || len(h.Interface) > MaxDescriptionLen || len(h.Agent) > MaxAgentLen {
			t.Fatalf("texts out of bounds: %d, %d, %d bytes", len(h.Stream), len(h.Interface), len(h.Agent))
		}
		frame := AppendHello(nil, h)
		if !bytes.HasPrefix(payload, frame[FrameHeaderLen:]) {
			t.Fatalf("accepted\n%x, wrote\n%x", payload, frame[FrameHeaderLen:])
		}
		if h.Version <= Version && len(payload) != len(frame)-FrameHeaderLen {
			t.Fatalf("%d bytes behind a hello were passed over", len(payload)-len(frame)+FrameHeaderLen)
		}
	})
}
