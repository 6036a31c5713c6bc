package main

import (
	"github.com/spf13/cobra"

	"poip/agent"
	"poip/agent/capture"
	"poip/internal/cli"
	"poip/internal/confine"
)

// complete has the shell complete the values of the flags for captures.
func complete(cmd *cobra.Command) {
	cli.Complete(cmd, "interface", interfaceNames)
	cli.Choices(cmd, "latency", string(capture.LatencyNormal), string(capture.LatencyLow))
	cli.Choices(cmd, "pace", string(capture.PaceMax), string(capture.PaceOriginal))
	cli.Choices(cmd, "direction", string(capture.DirectionIn), string(capture.DirectionOut))
	cli.Choices(cmd, "spool-overflow", string(agent.OverflowDropOldest), string(agent.OverflowDropNewest), string(agent.OverflowBlock))
	cli.Choices(cmd, "spool-sync", string(agent.SyncPeriodic), string(agent.SyncBatch))
	cli.Choices(cmd, "confine", string(confine.Auto), string(confine.Require), string(confine.Off))
}

// interfaceNames are those that a shell can be given.
func interfaceNames() (names []string) {
	all, err := capture.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		if plain(i.Name) == i.Name {
			names = append(names, i.Name)
		}
	}
	return names
}
