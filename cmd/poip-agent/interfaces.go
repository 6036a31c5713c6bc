package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"poip/agent/capture"
	"poip/internal/asciijson"
)

func newInterfaces() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "interfaces",
		Short: "List interfaces, and whether they may be captured",
		Long: `interfaces lists what --interface may name, with link type and state, and says
whether this program may capture here, and if not, how to permit it.`,
		Example: "  poip-agent interfaces",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := capture.Interfaces()
			if err != nil {
				return err
			}
			permitted := capture.Permitted()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all, permitted)
			}
			return printTable(cmd.OutOrStdout(), all, permitted)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	return cmd
}

func printTable(w io.Writer, all []capture.InterfaceState, permitted error) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INTERFACE\tLINK TYPE\tSTATE\tMTU")
	for _, i := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", plain(i.Name), i.LinkType, state(i), mtu(i))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if permitted != nil {
		fmt.Fprintf(w, "\ncapturing is not permitted: %v\n", permitted)
		return nil
	}
	fmt.Fprintln(w, "\ncapturing is permitted")
	return nil
}

// plain quotes a name that could do something to a terminal: whoever makes an
// interface may put nearly any byte into it.
func plain(name string) string {
	if quoted := strconv.QuoteToASCII(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

func state(i capture.InterfaceState) string {
	switch {
	case i.Running:
		return "up"
	case i.Up:
		return "up, no carrier"
	}
	return "down"
}

func mtu(i capture.InterfaceState) string {
	if i.MTU == 0 {
		return "-"
	}
	return fmt.Sprint(i.MTU)
}

func printJSON(w io.Writer, all []capture.InterfaceState, permitted error) error {
	type row struct {
		Name      string `json:"name"`
		LinkType  string `json:"link_type"`
		Up        bool   `json:"up"`
		Running   bool   `json:"running"`
		MTU       int    `json:"mtu"`
		Permitted bool   `json:"permitted"`
	}
	rows := []row{}
	for _, i := range all {
		rows = append(rows, row{i.Name, i.LinkType.String(), i.Up, i.Running, i.MTU, permitted == nil})
	}
	return asciijson.Print(w, rows)
}
