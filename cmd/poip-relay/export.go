package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/internal/audit"
	"poip/internal/config"
	"poip/internal/journal"
	"poip/internal/pcap"
	"poip/internal/wire"
)

func newHistoryExport() *cobra.Command {
	var from origin
	var since, until, link, out string
	cmd := &cobra.Command{
		Use:   "export STREAM --data DIR|--config FILE [--from TIME] [--to TIME] [-w FILE]",
		Short: "Write packets of a stream as a pcap file",
		Long: `export writes the packets of a stream that were captured from one time on and
before another one, as a pcap file with nanoseconds. What was lost in between is
told on standard error. Where the relay deletes what is oldest before it has been
read, the command fails, and says how many packets are missing.

A TIME is one of RFC 3339, as 2026-11-23T10:00:00Z, or how long ago, as 15m. A
pcap file has one link type: where the stream has had several, choose one.`,
		Example: "  poip-relay history export branch-7/eth0 --data /var/lib/poip-relay --from 15m -w last.pcap",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, names, err := from.streams(args)
			if err != nil {
				return err
			}
			e := export{told: cmd.ErrOrStderr(), link: link}
			if e.from, err = parseTime("--from", since, 0); err != nil {
				return err
			}
			if e.to, err = parseTime("--to", until, math.MaxInt64); err != nil {
				return err
			}
			return e.write(all, names[0], out, cmd.OutOrStdout())
		},
	}
	from.flags(cmd)
	cmd.Flags().StringVar(&since, "from", "", "`TIME` of the first packets (default: all)")
	cmd.Flags().StringVar(&until, "to", "", "`TIME` before which the last ones were captured (default: all)")
	cmd.Flags().StringVar(&link, "link-type", "", "`TYPE` of the packets, by name or number, where there are several")
	cmd.Flags().StringVarP(&out, "write", "w", "-", "`FILE` to write, which must not be there yet; - is standard output")
	return cmd
}

// parseTime returns nanoseconds since 1970.
func parseTime(flag, s string, otherwise int64) (int64, error) {
	if s == "" {
		return otherwise, nil
	}
	var back config.Duration
	if err := back.UnmarshalText([]byte(s)); err == nil {
		return time.Now().Add(-time.Duration(back)).UnixNano(), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.Year() < 1970 || at.Year() > 2261 {
		return 0, fmt.Errorf("%s %q: want a time as in 2026-11-23T10:00:00Z, or how long ago as in 15m", flag, s)
	}
	return at.UnixNano(), nil
}

// An export is the packets of a stream from one time on and before another, in
// nanoseconds since 1970.
type export struct {
	from, to int64
	link     string    // "" is the only one there is
	told     io.Writer // gaps, and warnings

	packets, bytes uint64 // that were written, with their record headers
}

// wants says whether a segment may have packets of that time.
func (e *export) wants(s *journal.SegmentInfo) bool {
	return s.Packets > 0 && (e.all() || s.Latest >= e.from && s.Earliest < e.to)
}

func (e *export) all() bool { return e.from == 0 && e.to == math.MaxInt64 }

func (e *export) write(all histories, name auth.StreamName, path string, stdout io.Writer) error {
	a, err := all.inspect(name)
	if err != nil {
		return err
	}
	defer a.Close() // it was only read
	link, snaplen, err := e.choose(a.Segments())
	if err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	file := io.WriteCloser(keepOpen{stdout})
	if path != "-" {
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return fmt.Errorf("export %s: %w", name, err)
		}
	}
	w := bufio.NewWriterSize(file, 256<<10)
	w.Write(pcap.AppendFileHeader(nil, link, snaplen, true)) // Flush tells the error
	visit := e.begin(all.data, name)
	err = e.copy(w, a, link)
	err = errors.Join(err, w.Flush(), file.Close())
	e.end(all.data, visit, err)
	if err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	return nil
}

// begin notes in the audit log that somebody reads a stream, and end what he
// got, as the relay does of analysts.
func (e *export) begin(data string, name auth.StreamName) audit.Entry {
	now := time.Now().UTC()
	visit := audit.Entry{Event: audit.ReadBegun, Streams: []string{name.String()}, From: &now}
	record(e.told, data, visit)
	return visit
}

func (e *export) end(data string, visit audit.Entry, err error) {
	now := time.Now().UTC()
	visit.Event, visit.To, visit.Packets, visit.Bytes, visit.Reason = audit.ReadEnded, &now, &e.packets, &e.bytes, "exported"
	if err != nil {
		visit.Reason = err.Error()
	}
	record(e.told, data, visit)
}

// keepOpen is an output that is not ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// choose finds the link type of what is wanted, and the longest captured length.
func (e *export) choose(segments []journal.SegmentInfo) (link pcap.LinkType, snaplen uint32, err error) {
	var links []pcap.LinkType
	link, snaplen = pcap.LinkEthernet, 1
	for _, s := range segments {
		own := s.Epoch.LinkType
		if !e.wants(&s) || e.link != "" && !strings.EqualFold(e.link, own.String()) && e.link != strconv.Itoa(int(own)) {
			continue
		}
		if link = own; !slices.Contains(links, own) {
			links = append(links, own)
		}
		snaplen = max(snaplen, s.Epoch.Snaplen)
	}
	switch {
	case len(links) > 1:
		return 0, 0, fmt.Errorf("the stream has had the link types %s in that time: choose one with --link-type", join(links))
	case len(links) == 0 && e.link != "":
		return 0, 0, fmt.Errorf("no packets of link type %q in that time", e.link)
	case len(links) == 0:
		snaplen = pcap.MaxCaptured
	}
	return link, snaplen, nil
}

func join(links []pcap.LinkType) string {
	var names []string
	for _, l := range links {
		names = append(names, l.String())
	}
	return strings.Join(names, ", ")
}

// copy writes the records, and tells of what was lost. The error says as well
// that packets were deleted before it had come to them.
func (e *export) copy(w io.Writer, a *journal.Archive, link pcap.LinkType) error {
	var overtaken uint64
	for _, s := range a.Segments() {
		if !e.wants(&s) || s.Epoch.LinkType != link {
			e.tellAll(s.Losses, &s)
			continue
		}
		if s.Missing > 0 {
			e.tellAll(s.Losses[:1], &s)
		}
		got, err := e.copySegment(w, a, &s)
		if err != nil {
			return err
		}
		overtaken += s.Packets - min(got, s.Packets)
	}
	if overtaken > 0 {
		return fmt.Errorf("%d packets are missing in it: the relay deleted them, as the oldest of the history, before they were read", overtaken)
	}
	return nil
}

// copySegment returns how many packets it has found, or found damaged.
func (e *export) copySegment(w io.Writer, a *journal.Archive, s *journal.SegmentInfo) (packets uint64, err error) {
	r := a.ReadSegment(s)
	defer r.Close()
	for {
		chunk, err := r.Next(1 << 20)
		if errors.Is(err, io.EOF) {
			return packets, nil
		}
		if err != nil {
			return packets, err
		}
		for i := range chunk.Entries {
			entry := &chunk.Entries[i]
			switch entry.Kind {
			case journal.Gap:
				e.tell(entry.Gap(), s)
				if entry.Cause == wire.CauseHistoryCorrupt {
					packets += entry.Lost
				}
			case journal.Batch:
				packets += uint64(entry.Count)
				if err := e.copyBatch(w, chunk.Records[entry.Offset:entry.Offset+entry.Length]); err != nil {
					return packets, err
				}
			}
		}
	}
}

// copyBatch goes by the records' own times: what a batch says of them is the
// sensor's word.
func (e *export) copyBatch(w io.Writer, records []byte) error {
	for len(records) > 0 {
		sec, nsec, captured, _ := pcap.Record(records)
		n := pcap.RecordHeaderLen + int(captured)
		if at := int64(sec)*1e9 + int64(nsec); at >= e.from && at < e.to {
			if _, err := w.Write(records[:n]); err != nil {
				return err
			}
			e.packets, e.bytes = e.packets+1, e.bytes+uint64(n)
		}
		records = records[n:]
	}
	return nil
}

func (e *export) tellAll(gaps []wire.Gap, s *journal.SegmentInfo) {
	for _, g := range gaps {
		e.tell(g, s)
	}
}

// tell says what was lost, unless that was outside of the time that is asked for.
func (e *export) tell(g wire.Gap, s *journal.SegmentInfo) {
	if g.Latest != 0 && g.Latest < e.from || g.Earliest >= e.to {
		return
	}
	count := "an unknown number of packets"
	if g.Count > 0 {
		count = fmt.Sprintf("%d packets", g.Count)
	}
	fmt.Fprintf(e.told, "lost: %s (%s), at number %d of epoch %s, %s to %s\n",
		count, g.Cause, g.First, s.Epoch.ID, clock(g.Earliest), clock(g.Latest))
}
