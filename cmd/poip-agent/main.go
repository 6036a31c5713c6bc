// Command poip-agent captures packets on a sensor and pushes them to a relay
// over mutual TLS or QUIC.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"poip/internal/cli"
)

func main() { os.Exit(cli.Run(newRoot(), os.Args[1:], os.Stdout, os.Stderr)) }

func newRoot() *cobra.Command {
	var logs cli.LogFlags
	root := &cobra.Command{
		Use:   "poip-agent",
		Short: "Capture packets on a sensor and push them to a relay",
		Long: `poip-agent captures packets on a sensor and pushes them to a poip-relay over
mutual TLS or QUIC. It numbers every packet, keeps what the relay has not
acknowledged, and counts what was lost, with the cause.

A sensor needs an identity: on the relay, "poip-relay token NAME --data DIR"
prints a line for "poip-agent enroll" here.`,
		Example: `  poip-agent enroll --data /var/lib/poip-agent
  poip-agent run --relay tls://192.0.2.1:57011 --data /var/lib/poip-agent --interface eth0 --filter 'not port 22'
  poip-agent run --config /etc/poip/agent.toml
  poip-agent interfaces`,
	}
	logs.Add(root)
	root.AddCommand(newEnroll(&logs), newRun(&logs), newCheck(), newInterfaces(), newStatus())
	return root
}
