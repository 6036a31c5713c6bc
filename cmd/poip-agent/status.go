package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"poip/agent"
	"poip/internal/asciijson"
	"poip/internal/config"
)

// askTime is how long a running agent may take to say how it fares.
const askTime = 5 * time.Second

func newStatus() *cobra.Command {
	var file, admin string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--config FILE | --admin ADDRESS]",
		Short: "Show how the agent on this machine fares",
		Long: `status asks the agent that runs on this machine: what each capture does, whether
the relay takes its packets, what is queued in memory and on disk, and what was
lost, by cause. It fails when no agent answers.`,
		Example: `  poip-agent status
  poip-agent status --config /etc/poip/agent.toml --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			address, err := adminAddress(file, admin)
			if err != nil {
				return err
			}
			report, err := ask(cmd.Context(), address)
			if err != nil {
				return err
			}
			if asJSON {
				return asciijson.Print(cmd.OutOrStdout(), report)
			}
			return printStatus(cmd.OutOrStdout(), report)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration `FILE` of the agent, for the address where it answers")
	cmd.Flags().StringVar(&admin, "admin", "", "`ADDRESS` where the agent answers (default "+agent.DefaultConfig().Admin.Listen+")")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	cmd.MarkFlagsMutuallyExclusive("config", "admin")
	return cmd
}

// adminAddress is where the agent answers.
func adminAddress(file, admin string) (string, error) {
	cfg := agent.DefaultConfig()
	if file == "" {
		return cmp.Or(admin, cfg.Admin.Listen), nil
	}
	if err := config.Load(file, "agent", &cfg); err != nil {
		return "", err
	}
	if cfg.Admin.Listen == "" {
		return "", fmt.Errorf("%s: [agent.admin] listen is \"\": give it an address, such as \"127.0.0.1:57081\", and start the agent anew", file)
	}
	return cfg.Admin.Listen, nil
}

// ask gets the report of the agent that answers at an address.
func ask(ctx context.Context, address string) (r agent.Report, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/api/v1/status", nil)
	if err != nil {
		return r, fmt.Errorf("ask the agent: %w", err)
	}
	// Nothing on the way: it is on this machine.
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := direct.Do(request)
	if err != nil {
		return r, fmt.Errorf("no agent answers at %s: %w; is it running, and is this its [agent.admin] listen?", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return r, fmt.Errorf("ask the agent at %s: it answers %q", address, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 16<<20)).Decode(&r); err != nil {
		return r, errors.New("what answers at " + address + " is no agent: it does not tell its status")
	}
	return r, nil
}

func printStatus(w io.Writer, r agent.Report) error {
	fmt.Fprintf(w, "sensor %s, %s\n", plain(r.Sensor), plain(r.Agent))
	if r.Expires != nil {
		fmt.Fprintf(w, "certificate until %s\n", r.Expires.Local().Format("2006-01-02 15:04:05"))
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STREAM\tCAPTURE\tUPLINK\tCAPTURED\tACKNOWLEDGED\tLOST\tQUEUED\tMEMORY\tSPOOL\tOLDEST")
	for _, s := range r.Streams {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", plain(s.Capture), captureOf(r, s.Capture), plain(string(s.State)),
			s.Captured, s.Acknowledged, s.LostPackets(), s.Queued, size(s.QueuedBytes), spoolBytes(s.Spool), age(s.Spool))
	}
	for _, c := range r.Captures {
		if !slices.ContainsFunc(r.Streams, func(s agent.StreamReport) bool { return belongs(s.Capture, c.Name) }) {
			fmt.Fprintf(table, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\t-\n", plain(c.Name), plain(string(c.State)))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, line := range remarks(r) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// belongs: a capture that has several interfaces makes several streams.
func belongs(stream, capture string) bool {
	return stream == capture || strings.HasPrefix(stream, capture+".")
}

// captureOf is what the capture of a stream does.
func captureOf(r agent.Report, stream string) string {
	state, longest := "gone", -1
	for _, c := range r.Captures {
		if belongs(stream, c.Name) && len(c.Name) > longest {
			state, longest = plain(string(c.State)), len(c.Name)
		}
	}
	return state
}

// remarks say what a table has no room for: losses by cause, and troubles.
func remarks(r agent.Report) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, c := range r.Captures {
		if c.Trouble != "" {
			say("%s: capture: %s", plain(c.Name), plain(c.Trouble))
		}
	}
	for _, s := range r.Streams {
		name := plain(s.Capture)
		if s.Trouble != "" {
			say("%s: uplink: %s", name, plain(s.Trouble))
		}
		if s.Spool != nil && s.Spool.Trouble != "" {
			say("%s: spool: %s", name, plain(s.Spool.Trouble))
		}
		if s.Recovered > 0 {
			say("%s: %d of the captured packets were found in the spool, from an earlier run", name, s.Recovered)
		}
		for _, cause := range sorted(s.Lost) {
			say("%s: %d packets lost: %s", name, s.Lost[cause], plain(cause))
		}
		for _, cause := range sorted(s.Unknown) {
			say("%s: %d losses of unknown size: %s", name, s.Unknown[cause], plain(cause))
		}
	}
	if len(lines) > 0 {
		lines = slices.Insert(lines, 0, "")
	}
	return lines
}

func sorted(counts map[string]uint64) (causes []string) {
	for cause := range counts {
		causes = append(causes, cause)
	}
	slices.Sort(causes)
	return causes
}

// size is a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, unit := float64(n), 0
	for ; v >= 1024 && unit < len(units)-1; unit++ {
		v /= 1024
	}
	if unit == 0 {
		return fmt.Sprint(n, " B")
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}

func spoolBytes(s *agent.SpoolReport) string {
	switch {
	case s == nil:
		return "off"
	case s.Limit == 0:
		return "failed"
	}
	return size(s.Bytes) + " of " + size(s.Limit)
}

func age(s *agent.SpoolReport) string {
	if s == nil || s.Age == 0 {
		return "-"
	}
	return (time.Duration(s.Age * float64(time.Second))).Round(100 * time.Millisecond).String()
}
