//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// report is what a run came to.
type report struct {
	Machine string   `json:"machine"`
	Results []result `json:"results"`
}

// result is what a scenario came to over the rounds; see medians.
type result struct {
	Name    string            `json:"name"`
	About   string            `json:"about"`
	Columns []string          `json:"columns"`
	Order   []string          `json:"order"` // of the contenders
	Medians map[string]sample `json:"medians"`
	Failed  map[string]string `json:"failed,omitempty"`
	Targets []outcome         `json:"targets,omitempty"`
}

// outcome is a target with its figures.
type outcome struct {
	Claim   string  `json:"claim"`
	Ours    float64 `json:"ours"`
	Peer    float64 `json:"peer,omitempty"` // 0: the target is absolute
	Ratio   float64 `json:"ratio"`
	Bound   float64 `json:"bound"`
	AtLeast bool    `json:"at_least"`
	Verdict string  `json:"verdict"` // ok, miss, not run
}

func newResult(s scenario, samples map[string][]sample, failed map[string]string) result {
	r := result{Name: s.name, About: s.about, Columns: s.columns, Medians: map[string]sample{}, Failed: failed}
	for _, c := range s.contenders {
		r.Order = append(r.Order, c.name)
		if len(samples[c.name]) > 0 {
			r.Medians[c.name] = medians(samples[c.name])
		}
	}
	for _, t := range s.targets {
		r.Targets = append(r.Targets, r.judge(t))
	}
	return r
}

// medians takes the median of each metric by itself, but of losses the mean: a
// round that lost something must show.
func medians(samples []sample) sample {
	m := sample{}
	for metric := range samples[0] {
		var values []float64
		for _, s := range samples {
			values = append(values, s[metric])
		}
		m[metric] = medianOf(values)
		if metric == lost {
			m[metric] = meanOf(values)
		}
	}
	return m
}

func medianOf(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func meanOf(values []float64) (mean float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return mean
}

func (r result) judge(t target) outcome {
	o := outcome{Claim: t.claim, Bound: t.bound, AtLeast: t.atLeast, Verdict: "not run"}
	ours, ok := r.figure(t.ours)
	if !ok {
		return o
	}
	o.Ours, o.Ratio = ours, ours
	for _, p := range t.peers {
		peer, ok := r.figure(p)
		if !ok {
			return o
		}
		o.Peer += peer
	}
	if len(t.peers) > 0 {
		o.Ratio = ours / o.Peer
	}
	o.Verdict = "miss"
	if t.atLeast && o.Ratio >= t.bound || !t.atLeast && o.Ratio <= t.bound {
		o.Verdict = "ok"
	}
	return o
}

func (r result) figure(f ref) (float64, bool) {
	v, ok := r.Medians[f.contender][f.metric]
	return v, ok
}

// rows are the table of a result, its heading first.
func (r result) rows() [][]string {
	table := [][]string{append([]string{""}, r.Columns...)}
	for _, name := range r.Order {
		row := []string{name}
		for _, column := range r.Columns {
			row = append(row, r.cell(name, column))
		}
		table = append(table, row)
	}
	return table
}

func (r result) cell(contender, metric string) string {
	if v, ok := r.figure(ref{contender, metric}); ok {
		return number(v)
	}
	return "-"
}

// number shows three digits that count.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

func (r result) printText(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", r.Name, r.About)
	printColumns(w, r.rows())
	for _, name := range sortedKeys(r.Failed) {
		fmt.Fprintf(w, "  %s: %s\n", name, r.Failed[name])
	}
}

func printColumns(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, "  "+strings.Join(row, "\t"))
	}
	t.Flush()
}

// targetRows are the table of all targets, its heading first.
func (r report) targetRows() [][]string {
	table := [][]string{{"target", "ours", "peer", "ratio", "wanted", ""}}
	for _, result := range r.Results {
		for _, o := range result.Targets {
			table = append(table, o.row())
		}
	}
	return table
}

func (o outcome) row() []string {
	wanted := "≤ " + number(o.Bound)
	if o.AtLeast {
		wanted = "≥ " + number(o.Bound)
	}
	if o.Verdict == "not run" {
		return []string{o.Claim, "-", "-", "-", wanted, o.Verdict}
	}
	peer := "-"
	if o.Peer != 0 {
		peer = number(o.Peer)
	}
	return []string{o.Claim, number(o.Ours), peer, number(o.Ratio), wanted, o.Verdict}
}

func (r report) printTargets(w io.Writer) {
	fmt.Fprintln(w, "\nTargets:")
	printColumns(w, r.targetRows())
}

func (r report) writeFiles(o options) error {
	var errs []error
	if o.json != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		errs = append(errs, err, os.WriteFile(o.json, append(data, '\n'), 0o644))
	}
	if o.markdown != "" {
		errs = append(errs, r.intoDocument(o.markdown))
	}
	return errors.Join(errs...)
}

// Between these lines of a document stands what the last run said.
const (
	documentBegin = "<!-- make bench writes from here … -->\n"
	documentEnd   = "<!-- … to here. -->\n"
)

// intoDocument puts the tables in their place within a document, or makes one
// of nothing else.
func (r report) intoDocument(path string) error {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	before, rest, found := strings.Cut(string(text), documentBegin)
	_, after, closed := strings.Cut(rest, documentEnd)
	if len(text) > 0 && (!found || !closed) {
		return fmt.Errorf("write the tables into %s: it has no place for them, between %q and %q", path, documentBegin, documentEnd)
	}
	return os.WriteFile(path, []byte(before+documentBegin+"\n"+string(r.asMarkdown())+documentEnd+after), 0o644)
}

// asMarkdown is what docs/PERFORMANCE.md takes over.
func (r report) asMarkdown() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "Measured on: %s.\n\n", r.Machine)
	for _, result := range r.Results {
		fmt.Fprintf(&out, "### %s\n%s\n\n", result.Name, result.About)
		markdownTable(&out, result.rows())
		for _, name := range sortedKeys(result.Failed) {
			fmt.Fprintf(&out, "%s: not measured, %s\n\n", name, result.Failed[name])
		}
	}
	fmt.Fprint(&out, "### Targets\n")
	markdownTable(&out, r.targetRows())
	return out.Bytes()
}

func markdownTable(w io.Writer, rows [][]string) {
	for i, row := range rows {
		for _, cell := range row {
			fmt.Fprintf(w, "| %s ", strings.ReplaceAll(cell, "|", `\|`)) // as in cat | nc
		}
		fmt.Fprintln(w, "|")
		if i == 0 {
			fmt.Fprintln(w, strings.Repeat("|---", len(row))+"|")
		}
	}
	fmt.Fprintln(w)
}
