//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"
)

// endOptions say what an end of a route is to do. An end is a process of its
// own, so that what sending and reading cost is measured apart, and is the
// same for every contender.
type endOptions struct {
	role         string // send, read or delay
	dial, listen string
	n            int  // connections
	tls, quic    bool // else plain TCP
	cert, key    string
	sendBuffer   int

	// Of senders: a file, or so many bytes, or so long; over each connection.
	file    string
	bytes   int64
	last    time.Duration
	chunk   int  // bytes of one write
	records bool // send record by record, each to everybody, round and round

	// Of readers.
	packets bool  // count pcap records
	pace    int64 // bytes a second, at most, of each connection; 0 is no limit
}

func parseEnd(args []string) (endOptions, error) {
	var o endOptions
	if len(args) == 0 {
		return o, errors.New("end of what kind: send, read or delay")
	}
	o.role = args[0]
	flags := flag.NewFlagSet("end "+o.role, flag.ContinueOnError)
	flags.StringVar(&o.dial, "dial", "", "connect to this address")
	flags.StringVar(&o.listen, "listen", "", "accept connections here")
	flags.IntVar(&o.n, "n", 1, "connections")
	flags.BoolVar(&o.tls, "tls", false, "TLS")
	flags.BoolVar(&o.quic, "quic", false, "a QUIC stream")
	flags.StringVar(&o.cert, "cert", "", "certificate of the accepting end")
	flags.StringVar(&o.key, "key", "", "its key")
	flags.IntVar(&o.sendBuffer, "sendbuffer", 0, "socket's send buffer; 0 is automatic")
	flags.StringVar(&o.file, "file", "", "send this file")
	flags.Int64Var(&o.bytes, "bytes", 0, "send so many bytes")
	flags.DurationVar(&o.last, "last", 0, "send for so long")
	flags.IntVar(&o.chunk, "chunk", 256<<10, "bytes of one write")
	flags.BoolVar(&o.records, "records", false, "send the file's pcap records one by one")
	flags.Int64Var(&o.pace, "pace", 0, "read no more bytes a second")
	flags.BoolVar(&o.packets, "packets", false, "count pcap records")
	return o, flags.Parse(args[1:])
}

// tally is what a reading end says when it is done.
type tally struct {
	Bytes   int64
	Least   int64 // of one connection
	Packets int64
	First   int64 // when the first byte came, in ns since 1970; 0 is never
	Last    int64
	Delays  []float64 // of the delay end, in ms, sorted
}

func (t tally) wall() time.Duration { return time.Duration(t.Last - t.First) }

// runEnd is an end's whole life. It says "up" when it accepts, "ready" when
// all connections stand, and a tally in JSON when everything is over. A sender
// waits for a line before it sends, a reader reads until the streams end or it
// is told to stop.
func runEnd(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	o, err := parseEnd(args)
	if err != nil {
		return err
	}
	streams, err := connectEnd(ctx, o, func() { fmt.Fprintln(out, "up") })
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "ready")
	orders := bufio.NewReader(in)
	var t tally
	switch o.role {
	case "send":
		if _, err := orders.ReadString('\n'); err != nil {
			return fmt.Errorf("wait for the word: %w", err)
		}
		err = sendAll(o, streams)
	case "read":
		t, err = readAll(o, streams, orders)
	case "delay":
		t, err = readDelays(streams[0], orders)
	default:
		err = fmt.Errorf("end of kind %q: must be send, read or delay", o.role)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(t)
}

// tallyOf waits for the tally of a reading end.
func tallyOf(p *process, limit time.Duration) (tally, error) {
	var t tally
	line, err := p.expect("{", limit)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte("{"+line), &t); err != nil {
		return t, p.failure(err)
	}
	return t, nil
}

// stopAndTally tells a reading end to stop.
func stopAndTally(p *process) (tally, error) {
	if err := p.say("stop"); err != nil { // the pipe breaks no earlier than the process ends
		<-p.exited
		return tally{}, p.failure(fmt.Errorf("ended by itself (%v) before it was told to stop", p.cmd.ProcessState))
	}
	return tallyOf(p, 10*time.Second)
}
