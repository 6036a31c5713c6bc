package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"poip/auth"
	"poip/broker"
	"poip/certs"
	"poip/internal/asciijson"
)

func newSensors() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sensors --data DIR [--json]",
		Short: "List the sensors: who is online, and how long certificates last",
		Long: `sensors lists every sensor that has a certificate or was seen, whether the relay
runs or not. Its state is

  online    it has a session with the relay
  offline   it has none, and could have one
  expired   its certificate has: it has to join anew
  revoked   it was, and has not joined again since
  old CA    its certificate is from a CA that is about to be retired`,
		Example: "  poip-relay sensors --data /var/lib/poip-relay",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sensors, err := listSensors(data, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				return asciijson.Print(cmd.OutOrStdout(), sensors)
			}
			return printSensors(cmd.OutOrStdout(), sensors)
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// A sensorLine is what there is to know of one sensor.
type sensorLine struct {
	Name         auth.SensorName             `json:"name"`
	State        string                      `json:"state"`
	LastSeen     *time.Time                  `json:"last_seen"` // null: never
	Remote       string                      `json:"remote,omitempty"`
	Network      string                      `json:"network,omitempty"`
	Agent        string                      `json:"agent,omitempty"` // its own words
	Expires      *time.Time                  `json:"certificate_expires"`
	Serial       string                      `json:"certificate_serial,omitempty"`
	OldCA        bool                        `json:"old_ca"`
	Streams      map[auth.CaptureName]string `json:"streams"`
	Certificates []certs.Entry               `json:"certificates"`
}

// listSensors puts together what the registry, the revocations and the relay's
// roster say.
func listSensors(data string, now time.Time) ([]sensorLine, error) {
	standing, err := certs.LoadStanding(data)
	if err != nil {
		return nil, err
	}
	roster, err := broker.LoadRoster(data)
	if err != nil {
		return nil, err
	}
	records, err := certs.OpenRegistry(data).List(certs.RoleSensor)
	if err != nil {
		return nil, err
	}
	known := make(map[auth.SensorName]certs.Record)
	for _, r := range records {
		known[auth.SensorName(r.Name)] = r
	}
	for name := range roster.Sensors {
		if _, ok := known[name]; !ok {
			known[name] = certs.Record{Role: certs.RoleSensor, Name: string(name)}
		}
	}
	lines := []sensorLine{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, err := auth.ParseSensorName(string(name)); err != nil {
			continue // no relay of ours has written that
		}
		lines = append(lines, describeSensor(name, known[name], standing, roster, now))
	}
	return lines, nil
}

func describeSensor(name auth.SensorName, record certs.Record, standing *certs.Trust, roster broker.Roster, now time.Time) sensorLine {
	seen := roster.Sensors[name]
	line := sensorLine{
		Name: name, State: "offline", Remote: seen.Remote, Network: seen.Network, Agent: seen.Agent,
		Streams: seen.Streams, Certificates: record.Certificates,
	}
	if !seen.Last.IsZero() {
		line.LastSeen = &seen.Last
	}
	entry, verdict := standing.Verdict(record, now)
	if verdict != "" {
		line.Expires, line.Serial, line.OldCA = &entry.NotAfter, entry.Serial, !standing.FromNewest(entry)
	}
	switch {
	case verdict == "revoked" || verdict == "expired":
		line.State = verdict
	case roster.Online(name, now):
		line.State = "online"
	}
	return line
}

func printSensors(stdout io.Writer, sensors []sensorLine) error {
	if len(sensors) == 0 {
		_, err := fmt.Fprintln(stdout, "no sensors; `poip-relay token SENSOR` lets one join")
		return err
	}
	w := tabwriter.NewWriter(stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SENSOR\tSTATE\tLAST SEEN\tADDRESS\tVERSION\tCERTIFICATE UNTIL\tSTREAMS")
	for _, s := range sensors {
		state := s.State
		if s.OldCA {
			state += ", old CA"
		}
		var streams []string
		for _, name := range slices.Sorted(maps.Keys(s.Streams)) {
			streams = append(streams, fmt.Sprintf("%s (%s)", name, s.Streams[name]))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, state, dayOf(s.LastSeen), orDash(s.Remote), printable(s.Agent), dayOf(s.Expires), orDash(strings.Join(streams, ", ")))
	}
	return w.Flush()
}

func dayOf(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable keeps an agent's words from doing anything to a terminal.
func printable(s string) string {
	quoted := fmt.Sprintf("%+q", s)
	return orDash(quoted[1 : len(quoted)-1])
}
