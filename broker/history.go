package broker

import "poip/internal/pcap"

// A history is the disk body of one stream. There is none yet.
type history struct{ journal interface{ Next() uint64 } }

// A past is how one cursor reads a history.
type past struct{}

func (*history) newPast(pcap.LinkType, form) *past { return nil }

func (c StreamConfig) checkHistory() []error { return nil }
