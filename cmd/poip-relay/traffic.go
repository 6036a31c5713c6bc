package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"poip/internal/pcap"
)

// newDemoTraffic is the sensor's network of a demonstration that may not
// capture a real one: it writes an endless pcap, as tcpdump -U -w - does.
func newDemoTraffic() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-traffic",
		Short:  "Write an endless capture of made-up traffic to standard output",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return writeTraffic(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

// writeTraffic writes ten packets a second: DNS queries of a few hosts.
func writeTraffic(ctx context.Context, w io.Writer) error {
	if _, err := w.Write(pcap.AppendFileHeader(nil, pcap.LinkEthernet, pcap.MaxCaptured, true)); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			frame := dnsQuery(uint16(n), fmt.Sprintf("host-%d", n%100))
			record := pcap.AppendRecord(nil, uint32(now.Unix()), uint32(now.Nanosecond()), uint32(len(frame)), frame)
			if _, err := w.Write(record); err != nil {
				return err
			}
		}
	}
}

// dnsQuery is an Ethernet frame that asks 192.0.2.53 for host.example, from
// one of the addresses that RFC 5737 sets aside for documentation.
func dnsQuery(id uint16, host string) []byte {
	be := binary.BigEndian
	dns := be.AppendUint16(nil, id)
	dns = append(dns, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	dns = append(append(dns, byte(len(host))), host...)
	dns = append(dns, "\x07example\x00\x00\x01\x00\x01"...) // type A, class IN

	from := netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + id%250)}).As4()
	to := netip.AddrFrom4([4]byte{192, 0, 2, 53}).As4()
	frame := append([]byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"), 0x08, 0x00)
	frame = append(frame, 0x45, 0)
	frame = be.AppendUint16(frame, uint16(20+8+len(dns)))
	frame = be.AppendUint16(frame, id)
	frame = append(frame, 0, 0, 64, 17, 0, 0)
	frame = append(append(frame, from[:]...), to[:]...)
	be.PutUint16(frame[14+10:], ^onesSum(frame[14:]))
	frame = be.AppendUint16(frame, 20000+id%20000)
	frame = be.AppendUint16(frame, 53)
	frame = be.AppendUint16(frame, uint16(8+len(dns)))
	frame = append(frame, 0, 0) // UDP over IPv4 may go without a checksum
	return append(frame, dns...)
}

// onesSum is the Internet checksum's sum (RFC 1071) of an even length.
func onesSum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	return uint16(sum + sum>>16)
}
