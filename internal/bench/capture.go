//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"poip/internal/poiptest"
)

// captureScenarios are packets from a wire to nowhere.
func captureScenarios(a amounts) []scenario {
	return []scenario{
		captureAt(a, 100), captureAt(a, 400), captureAt(a, 800), captureAt(a, 0),
	}
}

// captureAt captures 64-byte frames at so many thousand a second; 0 is as many
// as the generator can make.
func captureAt(a amounts, thousands float64) scenario {
	name, about := fmt.Sprintf("capture-%.0f", thousands), fmt.Sprintf("64-byte frames at %.0f kpps on veth", thousands)
	if thousands == 0 {
		name, about = "capture-max", "64-byte frames on veth, as fast as they come"
	}
	w := wire{frame: 64, rate: thousands * 1e3, last: a.last}
	s := scenario{
		name:    name,
		about:   about,
		columns: []string{nanos, kpps, lost, strangers},
		contenders: []contender{
			{name: "poip-agent, no relay", needs: ourPrograms, run: captureToNowhere(w, "0")},
			{name: "poip-agent, no relay, spooling", needs: ourPrograms, run: captureToNowhere(w, "")},
			{name: "poip-agent to a relay", needs: ourPrograms, run: captureToRelay(w, "normal")},
			{name: "poip-agent to a relay, low latency", needs: ourPrograms, run: captureToRelay(w, "low")},
			{name: "tcpdump -w", needs: []string{"tcpdump"}, run: captureByTcpdump(w)},
			{name: "tcpdump -U -w", needs: []string{"tcpdump"}, run: captureByTcpdump(w, "-U")},
			{name: "tcpdump -U --immediate-mode -w", needs: []string{"tcpdump"}, run: captureByTcpdump(w, "-U", "--immediate-mode")},
		},
	}
	s.targets = captureTargets(thousands)
	return s
}

func captureTargets(thousands float64) (targets []target) {
	at := fmt.Sprintf("capture at %.0f kpps", thousands)
	if thousands == 0 {
		at = "capture at full rate"
	}
	if thousands == 0 || thousands >= 400 {
		targets = append(targets,
			atMost(0.8, at+": CPU per packet against tcpdump -w", ref{"poip-agent, no relay", nanos}, ref{"tcpdump -w", nanos}),
			atMost(0, at+": lost %", ref{"poip-agent to a relay", lost}))
	}
	if thousands == 400 {
		targets = append(targets, atMost(0, at+", low latency: lost %", ref{"poip-agent to a relay, low latency", lost}))
	}
	return targets
}

// wire is a load of generated frames.
type wire struct {
	frame int     // bytes
	rate  float64 // frames a second; 0 is as fast as it goes
	last  time.Duration
}

// fullRate is more than the generator makes, for counting what to send.
const fullRate = 1.1e6

// load sends the frames and returns how many, and how long it took.
func (w wire) load() (sent float64, took time.Duration, err error) {
	g, err := poiptest.NewGenerator(wireIn, w.frame)
	if err != nil {
		return 0, 0, err
	}
	defer g.Close()
	perSecond := w.rate
	if perSecond == 0 {
		perSecond = fullRate
	}
	count := uint64(perSecond * w.last.Seconds())
	took, err = g.Send(count, w.rate)
	return float64(count), took, err
}

// settle gives captures time to start: most do not say when they have.
func settle() { time.Sleep(time.Second) }

// drained gives what is under way time to arrive.
func drained() { time.Sleep(700 * time.Millisecond) }

// captured is the sample of a capture that cost so much and got so many.
func (s *stage) captured(w wire, arrived, sent float64, took, spent time.Duration) sample {
	return sample{
		nanos:     float64(spent.Nanoseconds()) / arrived,
		seconds:   spent.Seconds(),
		kpps:      arrived / took.Seconds() / 1e3,
		lost:      (1 - arrived/sent) * 100,
		strangers: s.noise(),
	}
}

// captureToNowhere is the agent alone: its relay is not there, so it captures,
// batches, and, once the first load has filled its memory, drops the oldest; or
// writes all of it to its spool, where it has one.
func captureToNowhere(w wire, spool string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{})
		if err != nil {
			return nil, err
		}
		agent, err := d.agent(agentOptions{relay: "tls://127.0.0.1:1", spool: spool, captures: liveCapture("normal")})
		if err != nil {
			return nil, err
		}
		settle()
		if _, _, err := (wire{frame: w.frame, last: time.Second}).load(); err != nil {
			return nil, err
		}
		drained()
		s.mark()
		sent, took, err := w.load()
		if err != nil {
			return nil, err
		}
		drained()
		one := s.captured(w, sent, sent, took, s.cpu("agent"))
		delete(one, lost) // nobody can say, without a relay
		delete(one, kpps)
		return one, alive(agent)
	}
}

func alive(p *process) error {
	select {
	case <-p.exited:
		return p.failure(fmt.Errorf("ended by itself"))
	default:
		return nil
	}
}

// captureToRelay counts at the relay what the agent has delivered.
func captureToRelay(w wire, latency string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		d, err := s.deploy(relayOptions{})
		if err != nil {
			return nil, err
		}
		agent, err := d.agent(agentOptions{captures: liveCapture(latency)})
		if err != nil {
			return nil, err
		}
		settle()
		s.mark()
		sent, took, err := w.load()
		if err != nil {
			return nil, err
		}
		drained()
		spent := s.cpu("agent")
		arrived, err := d.metric("poip_relay_received_packets_total")
		if err != nil {
			return nil, err
		}
		return s.captured(w, arrived, sent, took, spent), alive(agent)
	}
}

func captureByTcpdump(w wire, args ...string) func(*stage) (sample, error) {
	return func(s *stage) (sample, error) {
		argv := append([]string{"tcpdump", "-i", wireOut, "-n", "-Z", "root", "-w", "/dev/null"}, args...)
		p, err := s.start("tcpdump", argv...)
		if err != nil {
			return nil, err
		}
		settle()
		s.mark()
		sent, took, err := w.load()
		if err != nil {
			return nil, err
		}
		drained()
		spent := s.cpu()
		p.cmd.Process.Signal(os.Signal(syscall.SIGINT))
		if err := p.wait(10 * time.Second); err != nil {
			return nil, err
		}
		arrived, err := countedByTcpdump(p.stderr.String())
		return s.captured(w, arrived, sent, took, spent), err
	}
}

var tcpdumpCount = regexp.MustCompile(`(?m)^(\d+) packets captured`)

func countedByTcpdump(said string) (float64, error) {
	found := tcpdumpCount.FindStringSubmatch(said)
	if found == nil {
		return 0, fmt.Errorf("tcpdump did not count: %q", said)
	}
	return strconv.ParseFloat(found[1], 64)
}
