// Command poip-relay receives packets from the agents on sensors and offers
// them to analysts as PCAP-over-IP.
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
		Use:   "poip-relay",
		Short: "Receive packets from sensors and offer them to analysts",
		Long: `poip-relay receives the packets that agents capture on sensors, over mutual
TLS or QUIC, and offers each stream again as plain or TLS PCAP-over-IP to any
number of analysts at once: to Wireshark, tshark, tcpdump, Zeek, Arkime,
NetworkMiner and whatever else reads pcap from a socket or a pipe.`,
		Example: `  poip-relay demo
  poip-relay init --data /var/lib/poip-relay --host relay.example --host 192.0.2.1
  poip-relay token branch-7 --data /var/lib/poip-relay
  poip-relay run --config /var/lib/poip-relay/relay.toml`,
	}
	logs.Add(root)
	root.AddCommand(newInit(), newToken(), newIssue(), newRevoke(), newSensors(), newCA(), newPasswd(), newHistory(), newRun(&logs), newCheck(), newDemo(&logs), newDemoTraffic())
	return root
}
