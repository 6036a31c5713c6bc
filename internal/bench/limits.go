//go:build linux

package main

import "fmt"

// limitScenarios are what the machine can do at all.
func limitScenarios(a amounts) []scenario {
	bytes := fmt.Sprint(a.stream)
	plain := func(chunk string) func(*stage) (sample, error) { return hop(nil, "-bytes", bytes, "-chunk", chunk) }
	secured := func(chunk string) func(*stage) (sample, error) {
		return hop([]string{"-tls"}, "-bytes", bytes, "-chunk", chunk)
	}
	return []scenario{{
		name:    "limits",
		about:   "one bare hop over loopback, from memory",
		columns: []string{rate, cost, sendCost, readCost, strangers},
		contenders: []contender{
			{name: "iperf3", needs: []string{"iperf3"}, run: iperf(1, a.last)},
			{name: "Go TCP, 256 KiB writes", run: plain("262144")},
			{name: "Go TCP, 64 KiB writes", run: plain("65536")},
			{name: "Go TLS 1.3, 256 KiB writes", run: secured("262144")},
			{name: "Go TLS 1.3, 16 KiB writes", run: secured("16384")},
			{name: "quic-go", run: hop([]string{"-quic"}, "-bytes", fmt.Sprint(a.stream/4))},
		},
	}}
}
