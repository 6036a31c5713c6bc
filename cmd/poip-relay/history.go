package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/broker"
	"poip/internal/asciijson"
	"poip/internal/config"
	"poip/internal/journal"
	"poip/internal/wire"
)

// An origin is where a command looks for histories: data or config is set.
type origin struct{ data, config, key string }

func (o *origin) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.data, "data", "", "data `DIR`ectory of the relay")
	cmd.Flags().StringVar(&o.config, "config", "", "configuration `FILE` of the relay, which names its data directory")
	cmd.Flags().StringVar(&o.key, "key", "", "`FILE` of the key of encrypted histories (default: what the configuration says)")
	cmd.MarkFlagsOneRequired("data", "config")
	cmd.MarkFlagsMutuallyExclusive("data", "config")
}

// histories are those below the data directory of a relay.
type histories struct {
	data string
	key  *journal.Key // nil: they are plain
}

func (o *origin) histories() (h histories, err error) {
	key := o.key
	if h.data = o.data; o.config != "" {
		cfg, err := loadConfig(o.config)
		if err != nil {
			return h, err
		}
		h.data, key = cfg.Data, cmp.Or(key, cfg.Stream.HistoryKey)
	}
	h.key, err = historyKey(key, h.data)
	return h, err
}

// historyKey reads the key that histories are encrypted with; nil, if there is
// no path.
func historyKey(path, data string) (*journal.Key, error) {
	if path == "" {
		return nil, nil
	}
	secret, err := config.ReadKey(path, data)
	if err != nil {
		return nil, fmt.Errorf("key of histories (stream.history_key): %w", err)
	}
	return journal.NewKey(secret)
}

// inspect opens the history of a stream, to look at.
func (h histories) inspect(name auth.StreamName) (*journal.Archive, error) {
	a, err := journal.Inspect(broker.HistoryOf(h.data, name), h.key)
	if errors.Is(err, journal.ErrKey) {
		err = fmt.Errorf("%w; the flag is --key", err)
	}
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", name, err)
	}
	return a, nil
}

// streams are those named, or all that have a history. Those that are found are
// returned whatever the error.
func (o *origin) streams(args []string) (h histories, names []auth.StreamName, err error) {
	if h, err = o.histories(); err != nil {
		return h, nil, err
	}
	if len(args) == 0 {
		names, err = broker.Histories(h.data)
		return h, names, err
	}
	for _, a := range args {
		name, err := auth.ParseStreamName(a)
		if err != nil {
			return h, nil, err
		}
		names = append(names, name)
	}
	return h, names, nil
}

func newHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "See what is on disk of each stream, take it out, and check it",
		Long: `history looks at the histories of streams, which are ordinary pcap files with an
index beside each, or encrypted ones. It changes nothing, and the relay may run
meanwhile. The key of encrypted ones is found by --config, or given by --key.`,
	}
	cmd.AddCommand(newHistoryList(), newHistoryExport(), newHistoryVerify())
	return cmd
}

func newHistoryList() *cobra.Command {
	var from origin
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list [STREAM]... --data DIR|--config FILE [--json]",
		Short:   "List what there is of each stream: times, packets, gaps, size",
		Example: "  poip-relay history list --data /var/lib/poip-relay",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, names, unseen := from.streams(args)
			if unseen != nil && len(names) == 0 {
				return unseen
			}
			list := historyList{Streams: []historyLine{}}
			for _, name := range names {
				line, err := lineOf(all, name)
				if err != nil {
					unseen = errors.Join(unseen, err)
					continue
				}
				list.Streams = append(list.Streams, line)
			}
			if asJSON {
				return errors.Join(asciijson.Print(cmd.OutOrStdout(), list), unseen)
			}
			return errors.Join(list.print(cmd.OutOrStdout()), unseen)
		},
	}
	from.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with each gap")
	return cmd
}

type historyList struct {
	Streams []historyLine `json:"streams"`
}

// A historyLine is what there is on disk of one stream.
type historyLine struct {
	Stream   string            `json:"stream"`
	Earliest int64             `json:"earliest"` // packet times, nanoseconds since 1970; 0: no packets
	Latest   int64             `json:"latest"`
	Packets  uint64            `json:"packets"`
	Lost     map[string]uint64 `json:"lost_packets"` // in gaps, by cause
	Unknown  map[string]uint64 `json:"lost_unknown"` // gaps of unknown count, by cause
	Bytes    int64             `json:"bytes"`
	Segments int               `json:"segments"`
	Damaged  int               `json:"damaged_segments"`
	Epochs   []historyEpoch    `json:"epochs"`
}

// A historyEpoch is one run of the capture, or as much of it as there is in one piece.
type historyEpoch struct {
	Epoch    string       `json:"epoch"`
	LinkType string       `json:"link_type"`
	First    uint64       `json:"first"` // lowest packet number that is there
	Next     uint64       `json:"next"`
	Packets  uint64       `json:"packets"`
	Ended    bool         `json:"ended"`
	Gaps     []historyGap `json:"gaps"`
}

// A historyGap of count 0 is a loss of which nobody knows how many packets it
// was.
type historyGap struct {
	First    uint64 `json:"first"`
	Count    uint64 `json:"count"`
	Cause    string `json:"cause"`
	Earliest int64  `json:"earliest"` // nanoseconds since 1970; 0 is unknown
	Latest   int64  `json:"latest"`
}

func lineOf(all histories, name auth.StreamName) (historyLine, error) {
	line := historyLine{Stream: name.String(), Lost: map[string]uint64{}, Unknown: map[string]uint64{}, Epochs: []historyEpoch{}}
	a, err := all.inspect(name)
	if err != nil {
		return line, err
	}
	for _, s := range a.Segments() {
		line.add(&s)
	}
	return line, a.Close()
}

func (l *historyLine) add(s *journal.SegmentInfo) {
	l.Segments++
	l.Bytes += s.Bytes
	if len(s.Damaged) > 0 {
		l.Damaged++
	}
	if s.Packets > 0 {
		if l.Packets == 0 {
			l.Earliest, l.Latest = s.Earliest, s.Latest
		}
		l.Earliest, l.Latest = min(l.Earliest, s.Earliest), max(l.Latest, s.Latest)
	}
	l.Packets += s.Packets
	id := s.Epoch.ID.String()
	if n := len(l.Epochs); n == 0 || l.Epochs[n-1].Epoch != id || l.Epochs[n-1].LinkType != s.Epoch.LinkType.String() {
		l.Epochs = append(l.Epochs, historyEpoch{
			Epoch: id, LinkType: s.Epoch.LinkType.String(), First: uint64(s.First) - s.Missing, Gaps: []historyGap{},
		})
	}
	e := &l.Epochs[len(l.Epochs)-1]
	e.Next, e.Ended = uint64(s.Next), s.Ended
	e.Packets += s.Packets
	for _, g := range s.Losses {
		e.Gaps = append(e.Gaps, historyGap{uint64(g.First), g.Count, g.Cause.String(), g.Earliest, g.Latest})
		if g.Count == 0 {
			l.Unknown[g.Cause.String()]++
		} else {
			l.Lost[g.Cause.String()] += g.Count
		}
	}
}

func (l historyList) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "STREAM\tFROM\tTO\tPACKETS\tLOST\tSIZE")
	for _, s := range l.Streams {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%.1f MiB\n", s.Stream, clock(s.Earliest), clock(s.Latest), s.Packets, s.losses(), float64(s.Bytes)/(1<<20))
	}
	return t.Flush()
}

func clock(ns int64) string {
	if ns == 0 {
		return "-"
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339)
}

// losses is for people.
func (l *historyLine) losses() string {
	var out []string
	for _, c := range append([]wire.Cause{0}, wire.Causes...) {
		if n := l.Lost[c.String()]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, c))
		}
		if n := l.Unknown[c.String()]; n > 0 {
			out = append(out, fmt.Sprintf("%d× unknown %s", n, c))
		}
	}
	if l.Damaged > 0 {
		out = append(out, fmt.Sprintf("%d damaged files", l.Damaged))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

func newHistoryVerify() *cobra.Command {
	var from origin
	cmd := &cobra.Command{
		Use:   "verify [STREAM]... --data DIR|--config FILE",
		Short: "Check every packet that is on disk",
		Long: `verify reads the histories of the streams, or of all, and checks each batch of
packets against its CRC and its number. It says which segment is damaged, and
where, and fails if any is.`,
		Example: "  poip-relay history verify branch-7/eth0 --data /var/lib/poip-relay",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, names, unseen := from.streams(args)
			return errors.Join(verify(all, names, cmd.OutOrStdout()), unseen)
		},
	}
	from.flags(cmd)
	return cmd
}

// verify goes on where it can, whatever it finds.
func verify(all histories, names []auth.StreamName, stdout io.Writer) error {
	var damaged []string
	var errs []error
	for _, name := range names {
		sound, err := verifyOne(all, name, stdout)
		if err != nil {
			errs = append(errs, err)
		}
		if !sound {
			damaged = append(damaged, name.String())
		}
	}
	if len(damaged) > 0 {
		errs = append(errs, fmt.Errorf("history is damaged: %s", strings.Join(damaged, ", ")))
	}
	return errors.Join(errs...)
}

func verifyOne(all histories, name auth.StreamName, stdout io.Writer) (sound bool, err error) {
	a, err := all.inspect(name)
	if err != nil {
		return true, err
	}
	sound = true
	err = a.Verify(func(segment string, problem error) {
		sound = false
		fmt.Fprintf(stdout, "%s: %s: %v\n", name, segment, problem)
	})
	if err := errors.Join(err, a.Close()); err != nil {
		return sound, fmt.Errorf("history of %s: %w", name, err)
	}
	if sound {
		fmt.Fprintf(stdout, "%s: ok, %d segments\n", name, len(a.Segments()))
	}
	return sound, nil
}
