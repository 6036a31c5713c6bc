//go:build linux

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTargetsAreJudgedByMedians(t *testing.T) {
	s := scenario{
		name:       "made up",
		columns:    []string{rate, cost},
		contenders: []contender{{name: "ours"}, {name: "theirs"}, {name: "others"}, {name: "absent"}},
		targets: []target{
			atLeast(2, "faster", ref{"ours", rate}, ref{"theirs", rate}),
			atMost(0.5, "cheaper than both", ref{"ours", cost}, ref{"theirs", cost}, ref{"others", cost}),
			atMost(3, "absolute", ref{"ours", cost}),
			atMost(1, "nobody there", ref{"ours", cost}, ref{"absent", cost}),
		},
	}
	r := newResult(s, map[string][]sample{
		"ours":   {{rate: 1, cost: 9}, {rate: 4, cost: 4}, {rate: 100, cost: 4}},
		"theirs": {{rate: 2, cost: 3}, {rate: 2, cost: 5}},
		"others": {{rate: 9, cost: 6}},
	}, map[string]string{"absent": "is not installed"})
	want := []outcome{
		{Claim: "faster", Ours: 4, Peer: 2, Ratio: 2, Bound: 2, AtLeast: true, Verdict: "ok"},
		{Claim: "cheaper than both", Ours: 4, Peer: 10, Ratio: 0.4, Bound: 0.5, Verdict: "ok"},
		{Claim: "absolute", Ours: 4, Ratio: 4, Bound: 3, Verdict: "miss"},
		{Claim: "nobody there", Ours: 4, Ratio: 4, Bound: 1, Verdict: "not run"},
	}
	for i, o := range r.Targets {
		if o != want[i] {
			t.Errorf("got  %+v\nwant %+v", o, want[i])
		}
	}
	var out bytes.Buffer
	r.printText(&out)
	for _, line := range []string{"theirs  2.00   4.00", "absent  -      -", "absent: is not installed"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
}

func TestALossInOneRoundIsSeen(t *testing.T) {
	s := scenario{contenders: []contender{{name: "ours"}}, targets: []target{atMost(0, "whole", ref{"ours", lost})}}
	for _, c := range []struct {
		samples []sample
		lost    float64
		verdict string
	}{
		{[]sample{{lost: 0}, {lost: 0}, {lost: 0}, {lost: 0}}, 0, "ok"},
		{[]sample{{lost: 0}, {lost: 1}, {lost: 0}, {lost: 0}}, 0.25, "miss"},
	} {
		r := newResult(s, map[string][]sample{"ours": c.samples}, nil)
		if got := r.Targets[0]; got.Ours != c.lost || got.Verdict != c.verdict {
			t.Errorf("%v: %+v, want %v and %s", c.samples, got, c.lost, c.verdict)
		}
	}
}

func TestDelaysAreThoseOfWhatArrived(t *testing.T) {
	got, err := delaysOf(tally{Packets: 3, Delays: []float64{1, 2, 40}}, 4)
	if err != nil || got[median] != 2 || got[tailDelay] != 40 || got[lost] != 25 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := delaysOf(tally{}, 4); err == nil {
		t.Errorf("delays of nothing: %v", got)
	}
}

func TestAPipeIsNoColumn(t *testing.T) {
	var out bytes.Buffer
	markdownTable(&out, [][]string{{"", "a"}, {"cat | nc", "1"}})
	if want := "|  | a |\n|---|---|\n| cat \\| nc | 1 |\n\n"; out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestQuantileIsOneOfTheValues(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %v, want %v", q, got, want)
		}
	}
	if got := quantile([]float64{7}, 0.5); got != 7 {
		t.Errorf("the median of 7 is %v", got)
	}
}

func TestTablesGoIntoTheirPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	r := report{Machine: "a machine"}
	if err := os.WriteFile(path, []byte("before\n"+documentBegin+"old\n"+documentEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.intoDocument(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := "before\n" + documentBegin + "\n" + string(r.asMarkdown()) + documentEnd + "after\n"; string(text) != want {
			t.Fatalf("got %s", text)
		}
	}
	if err := os.WriteFile(path, []byte("no place"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.intoDocument(path); err == nil {
		t.Error("a document without a place for the tables was overwritten")
	}
}

func TestSumMetric(t *testing.T) {
	const text = `# HELP poip_x_total with 5 words
poip_x_total{stream="a b"} 2
poip_x_total{stream="c"} 1e3
poip_x_total_other 7
poip_y 4
`
	for name, want := range map[string]float64{"poip_x_total": 1002, "poip_y": 4, "poip_z": 0} {
		if got, err := sumMetric(strings.NewReader(text), name); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
}

func TestEveryTargetNamesContendersThatExist(t *testing.T) {
	for _, short := range []bool{false, true} {
		for _, s := range scenarios(short) {
			names := map[string]bool{}
			for _, c := range s.contenders {
				if names[c.name] {
					t.Errorf("%s: two contenders are called %q", s.name, c.name)
				}
				names[c.name] = true
			}
			for _, target := range s.targets {
				for _, r := range append(target.peers, target.ours) {
					if !names[r.contender] {
						t.Errorf("%s: %q names %q, which is not there", s.name, target.claim, r.contender)
					}
				}
			}
		}
	}
}
