//go:build linux

package main

// scenario is one question: contenders that do the same work, what is measured
// of them, and what is to be reached.
type scenario struct {
	name       string
	about      string
	contenders []contender
	rounds     int      // at most; 0 is as many as were asked for
	columns    []string // metrics to show, in order
	targets    []target
}

// contender is one way to do the work.
type contender struct {
	name  string
	needs []string // programs
	run   func(*stage) (sample, error)
}

// sample is what one run of a contender came to, by metric.
type sample map[string]float64

// The metrics. Their names are the headings of the tables.
const (
	rate      = "GiB/s"         // delivered to all readers together
	cost      = "CPU s/GiB"     // of all processes, per GiB delivered
	relayCost = "relay s/GiB"   // of the relaying process alone
	sendCost  = "sender s/GiB"  // of the sending process alone
	readCost  = "reader s/GiB"  // of the reading process alone
	mbits     = "Mbit/s"        // of one stream
	nanos     = "CPU ns/packet" // that arrived: what is lost is no saving
	kpps      = "kpps"          // that arrived
	lost      = "lost %"
	seconds   = "CPU s" // of all processes
	cores     = "cores" // that all processes kept busy
	relayLoad = "relay cores"
	peakMiB   = "relay peak MiB"
	median    = "p50 ms"
	tailDelay = "p99 ms"
	strangers = "others' cores" // busy with something else meanwhile: noise
)

// ref names one figure of a scenario.
type ref struct{ contender, metric string }

// target is a ratio to reach: ours against the sum of the peers, or ours
// alone where there are none.
type target struct {
	claim   string
	ours    ref
	peers   []ref
	bound   float64
	atLeast bool // else at most
}

func atMost(bound float64, claim string, ours ref, peers ...ref) target {
	return target{claim: claim, ours: ours, peers: peers, bound: bound}
}

func atLeast(bound float64, claim string, ours ref, peers ...ref) target {
	return target{claim: claim, ours: ours, peers: peers, bound: bound, atLeast: true}
}

// scenarios lists them all, in the order in which they run.
func scenarios(short bool) []scenario {
	amount := fullAmounts
	if short {
		amount = shortAmounts
	}
	var all []scenario
	all = append(all, limitScenarios(amount)...)
	all = append(all, routeScenarios(amount)...)
	all = append(all, fanoutScenarios(amount)...)
	all = append(all, captureScenarios(amount)...)
	all = append(all, liveScenarios(amount)...)
	all = append(all, delayScenarios(amount)...)
	all = append(all, quietScenarios(amount)...)
	all = append(all, lossyScenarios(amount)...)
	all = append(all, diskScenarios(amount)...)
	all = append(all, historyScenarios(amount)...)
	return all
}
