package oracle

import (
	"slices"
	"testing"
)

// TestDifferenceOverlooksNothing changes one thing at a time: an oracle that
// agrees with everybody proves nothing.
func TestDifferenceOverlooksNothing(t *testing.T) {
	want := Reading{Frames: []Frame{{0, 1, 1, 2, 4, "abc"}, {1, 1, 1, 2, 0, ""}, {0, 1, 3, 0, 3, "def"}}}
	for name, change := range map[string]func(*Reading){
		"interface": func(r *Reading) { r.Frames[0].Interface++ },
		"link type": func(r *Reading) { r.Frames[0].Link++ },
		"seconds":   func(r *Reading) { r.Frames[0].Sec++ },
		"fraction":  func(r *Reading) { r.Frames[0].Nsec++ },
		"original":  func(r *Reading) { r.Frames[0].Original++ },
		"bytes":     func(r *Reading) { r.Frames[2].Data = "deg" },
		"order":     func(r *Reading) { r.Frames[0], r.Frames[2] = r.Frames[2], r.Frames[0] },
		"missing":   func(r *Reading) { r.Frames = r.Frames[:2] },
		"too many":  func(r *Reading) { r.Frames = append(r.Frames, r.Frames[2]) },
		"complaint": func(r *Reading) { r.Complaint = "cut off" },
	} {
		got := Reading{Frames: slices.Clone(want.Frames)}
		if d := Difference(got, want); d != "" {
			t.Errorf("the same: %s", d)
		}
		change(&got)
		if Difference(got, want) == "" {
			t.Errorf("%s: no difference", name)
		}
		if name != "missing" && Difference(got.ByInterface(), want.ByInterface()) == "" {
			t.Errorf("%s: no difference by interface", name)
		}
	}
}

func TestRefusalNeedsItsReason(t *testing.T) {
	want := Capture{exception: exception{Nobody, "offset 112: time"}}.Read(t)
	for got, same := range map[string]bool{"": false, "no such file": false, "read file x: offset 112: time 4294967296": true} {
		if d := Difference(Reading{Complaint: got}, want); (d == "") != same {
			t.Errorf("complaint %q: %q", got, d)
		}
	}
}
