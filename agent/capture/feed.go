package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"poip/internal/pcap"
)

// ErrBroken is wrapped by errors that trying anew would meet again: a file that
// is damaged or not there, a filter that does not suit the packets. What was
// read before has been delivered.
var ErrBroken = errors.New("capture is broken")

// broken wraps ErrBroken without saying so.
type broken struct{ error }

func (b broken) Unwrap() []error { return []error{b.error, ErrBroken} }

// Take says which packets to take from a capture file, and how much of each.
type Take struct {
	// Filter makes the function that decides, for packets of one link type and
	// greatest length. It is called before the first packet of each interface.
	// Nil takes everything.
	Filter func(ctx context.Context, linkType pcap.LinkType, snaplen uint32) (func(original uint32, data []byte) bool, error)

	Snaplen uint32 // bytes to take of each packet; 0 is all that there are
}

func (t *Take) everything() bool {
	return t.Filter == nil && (t.Snaplen == 0 || t.Snaplen >= pcap.MaxCaptured)
}

// A feed carries packets from a capture file, wherever that is read, to a Sink
// for each of its interfaces. It is used once, by one goroutine.
type feed struct {
	take    Take
	open    func(Info) Sink
	pace    *pacer // nil is as fast as it goes
	several bool   // the first interface is numbered like all others
	direct  bool   // in never waits, so that records may be read in place

	outlets []outlet // by the interface's number in the file
}

// outlet is where the packets of one interface go.
type outlet struct {
	sink  Sink
	match func(original uint32, data []byte) bool
}

// run reads in to its end. It does not wait for input before everything that
// was read is flushed, if in tells it so: see waiting.
func (f *feed) run(ctx context.Context, in io.Reader) error {
	defer f.flush()
	r, err := pcap.NewReader(in)
	if err != nil {
		return err
	}
	// The one interface of a pcap file is known before any packet; those of a
	// pcapng file are counted when the first arrives.
	if err := f.announce(ctx, r.Interfaces()); err != nil {
		return err
	}
	sink := f.recordSink()
	for {
		if sink != nil && r.Direct() && fill(sink, r) {
			continue
		}
		p, err := r.Next()
		if err != nil {
			return f.finish(ctx, r, err)
		}
		if p.Interface >= len(f.outlets) {
			if err := f.announce(ctx, r.Interfaces()); err != nil {
				return err
			}
		}
		if err := f.deliver(ctx, p); err != nil {
			return err
		}
	}
}

// recordSink is where a pcap file's records may be read to, or nil where that is
// not to be, as something is asked of each packet.
func (f *feed) recordSink() RecordSink {
	if !f.direct || f.pace != nil || !f.take.everything() || len(f.outlets) != 1 {
		return nil
	}
	sink, _ := f.outlets[0].sink.(RecordSink)
	return sink
}

// fill says whether there were any records.
func fill(sink RecordSink, r *pcap.Reader) bool {
	run := r.Records(sink.Room())
	if run.Count > 0 {
		sink.Records(run)
	}
	return run.Count > 0
}

// finish announces interfaces without packets, too.
func (f *feed) finish(ctx context.Context, r *pcap.Reader, err error) error {
	if announceErr := f.announce(ctx, r.Interfaces()); announceErr != nil {
		return announceErr
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// announce opens a Sink for each interface that has none yet.
func (f *feed) announce(ctx context.Context, interfaces []pcap.Interface) error {
	f.several = f.several || len(f.outlets) == 0 && len(interfaces) > 1
	for number := len(f.outlets); number < len(interfaces); number++ {
		info := f.describe(number, interfaces[number])
		out := outlet{match: takeAll}
		if f.take.Filter != nil {
			var err error
			if out.match, err = f.take.Filter(ctx, info.LinkType, info.Snaplen); err != nil {
				return broken{err}
			}
		}
		out.sink = f.open(info)
		f.outlets = append(f.outlets, out)
	}
	return nil
}

func takeAll(uint32, []byte) bool { return true }

func (f *feed) describe(number int, i pcap.Interface) Info {
	info := Info{LinkType: i.LinkType, Snaplen: i.Snaplen, Description: i.Name}
	if number > 0 || f.several {
		info.Sub = strconv.Itoa(number)
	}
	if info.Snaplen == 0 || info.Snaplen > pcap.MaxCaptured {
		info.Snaplen = pcap.MaxCaptured
	}
	if f.take.Snaplen != 0 {
		info.Snaplen = min(info.Snaplen, f.take.Snaplen)
	}
	if i.Name == "" {
		info.Description = i.Description
	} else if i.Description != "" {
		info.Description = fmt.Sprintf("%s (%s)", i.Name, i.Description)
	}
	return info
}

// deliver gives one packet to the Sink of its interface, when it is due.
func (f *feed) deliver(ctx context.Context, p *pcap.Packet) error {
	if f.pace != nil {
		if err := f.pace.wait(ctx, p.Sec, p.Nsec, f.flush); err != nil {
			return err
		}
	}
	out := &f.outlets[p.Interface]
	if !out.match(p.Original, p.Data) {
		return nil
	}
	data := p.Data
	if f.take.Snaplen != 0 && len(data) > int(f.take.Snaplen) {
		data = data[:f.take.Snaplen]
	}
	if len(data) == 0 {
		out.sink.Empty()
		return nil
	}
	out.sink.Packet(p.Sec, p.Nsec, p.Original, data)
	return nil
}

func (f *feed) flush() {
	for _, out := range f.outlets {
		out.sink.Flush()
	}
}

// waiting is an input that may make its reader wait: before it does, what was
// read is sent. (A pcap.Reader asks for more only when it has no whole packet.)
type waiting struct {
	in     io.Reader
	before func()
}

func (w waiting) Read(p []byte) (int, error) {
	w.before()
	return w.in.Read(p)
}
