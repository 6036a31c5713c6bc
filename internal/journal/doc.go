// Package journal is an append-only log of batches and gaps on disk. The
// agent's spool and the relay's history are this one package, used twice; a
// journal is the folder of one stream.
//
// The log is cut into segments. A segment is an ordinary nanosecond pcap file,
// which Wireshark and tcpdump open at any time, and an index beside it that
// says which packet numbers are where, and what is missing. FORMAT.md in this
// folder specifies both, so that another program can read them. With a Key, the
// packets are encrypted, batch by batch, and the index says where they are.
//
// Appending copies into memory and returns. A committer writes what has
// gathered and has the disk confirm all of it at once, within 50 ms or after a
// few megabytes; what is confirmed is called durable. What a failed fsync
// leaves unconfirmed is written again, to another segment.
//
// Readers follow the log by packet number or by ordinal, which counts the
// packets that the journal has ever taken. They have files of their own and
// are never in the committer's way.
//
// Opening a journal keeps what the index and the checksums vouch for. A torn
// end is cut off; damage in the middle becomes a gap of exact size, and the
// damaged files are kept in quarantine.
package journal
