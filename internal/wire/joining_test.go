package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// joiningVectors are the frames of joining that PROTOCOL.md shows, by name.
func joiningVectors(t testing.TB) map[string][]byte {
	join := Join{CSR: []byte{0x30, 0x03, 0x02, 0x01, 0x07}}
	for i := range join.ID {
		join.ID[i] = byte(i)
	}
	for i := range join.Proof {
		join.Proof[i] = byte(0xa0 + i)
	}
	welcome, err := AppendWelcome(nil, Welcome{Chain: [][]byte{{0x30, 0x01, 0xff}, {0x30, 0x00}}, Authorities: [][]byte{{0x30, 0x02, 0xca, 0xca}}})
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"join": AppendJoin(nil, join), "welcome": welcome}
}

var joiningBlock = regexp.MustCompile("(?s)```joining ([a-z-]+)\n(.*?)```")

func TestJoiningVectorsAreWhatTheCodeWrites(t *testing.T) {
	page, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	want := joiningVectors(t)
	if *update {
		page = joiningBlock.ReplaceAllFunc(page, func(block []byte) []byte {
			name := string(joiningBlock.FindSubmatch(block)[1])
			return fmt.Appendf(nil, "```joining %s\n%s```", name, hexLines(want[name]))
		})
		if err := os.WriteFile("PROTOCOL.md", page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range joiningBlock.FindAllSubmatch(page, -1) {
		name := string(m[1])
		got, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		if err != nil || !bytes.Equal(got, want[name]) {
			t.Errorf("vector %s is\n%s, the code writes\n%s (%v)", name, hexLines(got), hexLines(want[name]), err)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("PROTOCOL.md has no vector %s", name)
	}
}

// counting is a stream that nobody should read far into.
type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// Fails without the bound in ReadJoining: it would allocate, and wait for,
// whatever a stranger says.
func TestJoiningFramesAreBounded(t *testing.T) {
	for what, head := range map[string][]byte{
		"4 GiB":              {32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"one byte too long":  {32, 0, 0, 0, 0x01, 0x20, 0, 0},
		"a batch":            {4, 0, 0, 0, 40, 0, 0, 0},
		"reserved bits":      {32, 1, 0, 0, 40, 0, 0, 0},
		"no type of joining": {34, 0, 0, 0, 40, 0, 0, 0},
	} {
		stream := &counting{r: io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, 1<<20)))}
		if _, _, err := ReadJoining(stream); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
		if stream.n != len(head) {
			t.Errorf("%s: %d bytes behind the header were read", what, stream.n-len(head))
		}
	}
	allocated := testing.AllocsPerRun(10, func() { ReadJoining(bytes.NewReader([]byte{32, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f})) })
	if allocated > 20 {
		t.Errorf("%.0f allocations for a frame that is refused", allocated)
	}
}

func TestJoiningFramesEndWhereTheyShould(t *testing.T) {
	for name, frame := range joiningVectors(t) {
		for i := range frame {
			_, _, err := ReadJoining(bytes.NewReader(frame[:i]))
			if i == 0 && err != io.EOF || i > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s cut at %d: %v", name, i, err)
			}
		}
	}
	long := make([]byte, MaxJoinLen)
	for what, w := range map[string]Welcome{
		"no chain": {nil, [][]byte{{1}}}, "no authority": {[][]byte{{1}}, nil}, "an empty certificate": {[][]byte{{}}, [][]byte{{1}}},
		"too long": {[][]byte{long}, [][]byte{{1}}}, "too many": {make([][]byte, MaxJoinCerts+1), [][]byte{{1}}},
	} {
		if _, err := AppendWelcome(nil, w); err == nil {
			t.Errorf("welcome with %s was written", what)
		}
	}
}

// FuzzJoining gives either side what the other may send. Whatever is accepted
// is written again as the same bytes.
func FuzzJoining(f *testing.F) {
	for _, frame := range joiningVectors(f) {
		f.Add(frame)
	}
	f.Add(AppendRefusal(nil, Refusal{Code: CodeForbidden, Reason: "no"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, payload, err := ReadJoining(bytes.NewReader(data))
		if err != nil {
			return
		}
		if len(payload) > MaxJoinLen {
			t.Fatalf("a payload of %d bytes", len(payload))
		}
		var again []byte
		switch kind {
		case TypeJoin:
			join, err := ParseJoin(payload)
			if err != nil {
				return
			}
			again = AppendJoin(nil, join)
		case TypeWelcome:
			welcome, err := ParseWelcome(payload)
			if err != nil {
				return
			}
			if again, err = AppendWelcome(nil, welcome); err != nil {
				t.Fatal(err)
			}
		case TypeRefusal:
			refusal, err := ParseRefusal(payload)
			if err != nil {
				return
			}
			again = AppendRefusal(nil, refusal)
		}
		if !bytes.HasPrefix(data, again) {
			t.Fatalf("accepted\n%x, wrote\n%x", data, again)
		}
	})
}
