package journal

import (
	"math/bits"
	"unsafe"
)

const (
	// blockLen is what direct writes are multiples of, in the file and in memory:
	// the largest block that file systems commonly have.
	blockLen = 4096

	// stageLen is the size of a large write. One waits for the disk, and half as
	// much cost a twentieth of the rate (Linux 6.18, ext4, virtio).
	stageLen = 1 << 20
)

// A stage collects what is appended to a file for few, large writes, with
// every block of the file at a block of memory: so a diskFile can write them
// past the page cache.
type stage struct {
	file   File
	at     int64  // of the file, where what is collected goes
	memory []byte // begins at a block
	begin  int    // of memory, where that is
	end    int
}

// open prepares for n bytes at an offset of a file.
func (s *stage) open(f File, at, n int64) {
	s.file, s.at, s.begin = f, at, int(at%blockLen)
	s.end = s.begin
	if need := int(min(stageLen, int64(s.begin)+n)); len(s.memory) < need {
		s.memory = aligned(max(blockLen, 1<<bits.Len(uint(need-1))))
	}
}

// aligned returns so much memory, of whole blocks.
func aligned(n int) []byte {
	b := make([]byte, n+blockLen)
	return b[-blockOffset(b)&(blockLen-1):][:n]
}

// blockOffset is where in a block of memory b begins.
func blockOffset(b []byte) int { return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % blockLen) }

// add collects b, and writes what is full.
func (s *stage) add(b []byte) error {
	for len(b) > 0 {
		n := copy(s.memory[s.end:], b)
		s.end += n
		if b = b[n:]; s.end == len(s.memory) {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what is collected.
func (s *stage) flush() error {
	if s.begin == s.end {
		return nil
	}
	n, err := s.file.WriteAt(s.memory[s.begin:s.end], s.at)
	s.at += int64(n)
	s.begin = int(s.at % blockLen)
	s.end = s.begin
	return err
}
