//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"poip/internal/pcap"
)

// sendAll sends over all connections at once, and closes them.
func sendAll(o endOptions, streams []io.ReadWriteCloser) error {
	if o.records {
		return sendRecords(o, streams)
	}
	errs := make([]error, len(streams))
	var sending sync.WaitGroup
	shared := make([]byte, o.chunk) // one buffer for all: it stays in the cache
	for i, s := range streams {
		sending.Go(func() {
			errs[i] = errors.Join(sendOne(o, s, shared), s.Close())
		})
	}
	sending.Wait()
	return errors.Join(errs...)
}

func sendOne(o endOptions, s io.Writer, buf []byte) error {
	switch {
	case o.file != "":
		return sendFile(o, s, buf)
	case o.last > 0:
		return sendFor(o.last, s, buf)
	}
	for left := o.bytes; left > 0; {
		n, err := s.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		left -= int64(n)
	}
	return nil
}

func sendFor(last time.Duration, s io.Writer, buf []byte) error {
	for end := time.Now().Add(last); time.Now().Before(end); {
		if _, err := s.Write(buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// sendFile is deliberately no io.Copy, which would use sendfile: every
// contender reads its input.
func sendFile(o endOptions, s io.Writer, buf []byte) error {
	source, err := os.Open(o.file)
	if err != nil {
		return err
	}
	defer source.Close()
	for {
		n, err := source.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := s.Write(buf[:n]); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// sendRecords writes each record of a capture to each stream in turn, round
// and round until its time is over.
func sendRecords(o endOptions, streams []io.ReadWriteCloser) error {
	records, err := os.ReadFile(o.file)
	if err != nil {
		return err
	}
	records = records[pcap.FileHeaderLen:]
	end, at := time.Now().Add(o.last), 0
	for i := 0; i%256 != 0 || time.Now().Before(end); i++ {
		length := pcap.RecordHeaderLen + int(binary.LittleEndian.Uint32(records[at+8:]))
		for _, s := range streams {
			if _, err := s.Write(records[at : at+length]); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		if at += length; at == len(records) {
			at = 0
		}
	}
	var errs []error
	for _, s := range streams {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
