package broker

import (
	"time"

	"poip/internal/pcap"
	"poip/internal/wire"
)

// A history is the disk body of one stream. There is none yet.
type history struct{ journal noJournal }

type noJournal struct{}

func (noJournal) Begin(struct{}, wire.PacketNumber) {}
func (noJournal) Next() uint64                      { return 0 }
func (noJournal) Append(_, _ []byte, _ int64)       {}
func (noJournal) Gap(wire.Gap, int64)               {}
func (noJournal) End(bool, int64)                   {}
func (*history) settled() bool                      { return true }
func (*history) safe(wire.Epoch) wire.PacketNumber  { return 0 }
func (*history) pending() int64                     { return 0 }
func (*history) trouble() error                     { return nil }
func (*history) holder() (*cursor, time.Time)       { return nil, time.Time{} }

// A past is how one cursor reads a history.
type past struct{}

func (*history) newPast(pcap.LinkType, form) *past { return nil }

func (c StreamConfig) checkHistory() []error { return nil }
