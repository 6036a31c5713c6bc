package journal

import (
	"math/bits"
	"unsafe"
)

const (
	// blockLen is what direct writes are multiples of, in the file and in memory:
	// the largest block that file systems commonly have.
	blockLen = 4096

	// stageLen is how much is collected for one write.
	stageLen = chunkLen
)

// A stage collects what is appended to a file for few, large writes, with
// every block of the file at a block of memory: so a diskFile can write them
// past the page cache. What stands so already is not copied.
type stage struct {
	file   File
	at     int64  // of the file, where what is collected goes
	memory []byte // begins at a block
	want   int    // of memory
	begin  int    // of memory, where what is collected is
	end    int
}

// open prepares for n bytes at an offset of a file.
func (s *stage) open(f File, at, n int64) {
	s.file, s.at, s.begin = f, at, int(at%blockLen)
	s.end = s.begin
	s.want = int(min(stageLen, int64(s.begin)+n))
}

// aligned returns so much memory, of whole blocks.
func aligned(n int) []byte {
	b := make([]byte, n+blockLen)
	return b[-blockOffset(b)&(blockLen-1):][:n]
}

// blockOffset is where in a block of memory b begins.
func blockOffset(b []byte) int { return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % blockLen) }

// add collects b, and writes what is full; or much of b from where it is, if its
// blocks are blocks of the file.
func (s *stage) add(b []byte) error {
	if s.begin == s.end && len(b) >= muchData && blockOffset(b) == s.begin {
		return s.write(b)
	}
	if len(s.memory) < s.want {
		s.memory = aligned(max(blockLen, 1<<bits.Len(uint(s.want-1))))
	}
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
	return s.write(s.memory[s.begin:s.end])
}

func (s *stage) write(b []byte) error {
	n, err := s.file.WriteAt(b, s.at)
	s.at += int64(n)
	s.begin = int(s.at % blockLen)
	s.end = s.begin
	return err
}
