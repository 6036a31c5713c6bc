//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"poip/internal/journal"
)

// readLength is what is asked for at once, in bytes.
const readLength = 1 << 20

func (s *stage) readPlain(dir string, bytes int64) (sample, error) {
	if _, err := s.writePlain(dir, bytes); err != nil {
		return nil, err
	}
	if err := forget(filepath.Join(dir, "*")); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, "plain"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, readLength)
	s.mark()
	began, got := time.Now(), int64(0)
	for {
		n, err := f.ReadAt(buf, got)
		if got += int64(n); errors.Is(err, io.EOF) {
			return s.read(got, time.Since(began)), nil
		} else if err != nil {
			return nil, err
		}
	}
}

func (s *stage) read(bytes int64, took time.Duration) sample {
	return sample{rate: float64(bytes) / (1 << 30) / took.Seconds(), strangers: s.noise()}
}

func (s *stage) readJournal(dir string, bytes int64) (sample, error) {
	if err := fillJournal(dir, bytes); err != nil {
		return nil, err
	}
	if err := forget(filepath.Join(dir, "*")); err != nil {
		return nil, err
	}
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		return nil, err
	}
	defer j.Close()
	r := j.ReadOrdinal(0)
	defer r.Close()
	s.mark()
	began, got := time.Now(), int64(0)
	for {
		c, err := r.Next(readLength)
		if got += int64(len(c.Records)); errors.Is(err, io.EOF) {
			return s.read(got, time.Since(began)), nil
		} else if err != nil {
			return nil, err
		}
	}
}

func fillJournal(dir string, bytes int64) error {
	j, err := journal.Open(dir, journal.Options{})
	if err != nil {
		return err
	}
	feedJournal(j, bytes)
	return j.Close()
}

// forget has the kernel cache nothing of the files that match a pattern.
func forget(pattern string) error {
	return each(pattern, func(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) })
}

// recall has it cache all of them.
func recall(pattern string) error {
	return each(pattern, func(f *os.File) error {
		_, err := io.Copy(io.Discard, f)
		return err
	})
}

func each(pattern string, do func(f *os.File) error) error {
	all, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, path := range all {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = do(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (s *stage) recoverJournal(dir string, bytes int64) (sample, error) {
	if err := fillJournal(dir, bytes); err != nil {
		return nil, err
	}
	indexes, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil || len(indexes) == 0 {
		return nil, fmt.Errorf("no index in %s: %w", dir, err)
	}
	last := indexes[len(indexes)-1]
	info, err := os.Stat(last)
	if err != nil {
		return nil, err
	}
	const seal = 64 // bytes; a process that died has not written it
	if err := os.Truncate(last, info.Size()-seal); err != nil {
		return nil, err
	}
	if err := forget(filepath.Join(dir, "*")); err != nil {
		return nil, err
	}
	s.mark()
	began := time.Now()
	j, err := journal.Open(dir, journal.Options{})
	took := time.Since(began)
	if err != nil {
		return nil, err
	}
	return sample{millis: float64(took.Microseconds()) / 1000, strangers: s.noise()}, j.Close()
}
