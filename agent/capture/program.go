package capture

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
)

// maxProgram is how many instructions the kernel takes (BPF_MAXINSNS of
// linux/bpf_common.h).
const maxProgram = 4096

// Pieces of instruction codes (linux/bpf_common.h).
const (
	opClass = 0x07
	opLD    = 0x00
	opLDX   = 0x01
	opST    = 0x02
	opSTX   = 0x03
	opALU   = 0x04
	opJMP   = 0x05
	opRET   = 0x06
	opMISC  = 0x07

	opRetK = 0x06 // ret #k
	opJA   = 0x05
	opDivK = 0x34
	opModK = 0x94
	opLshK = 0x64
	opRshK = 0x74

	opMode    = 0xe0
	opModeABS = 0x20
	opModeIND = 0x40
	opModeMEM = 0x60
	opModeMSH = 0xa0

	scratchSlots = 16 // BPF_MEMWORDS
)

// allowedOps are the instruction codes that the kernel's bpf_check_classic
// takes.
var allowedOps = func() (ok [256]bool) {
	for _, op := range []uint16{
		0x20, 0x28, 0x30, 0x40, 0x48, 0x50, // ld, ldh, ldb: absolute, indirect
		0x80, 0x81, 0xb1, // length to A, length to X, header length to X
		0x00, 0x01, 0x60, 0x61, 0x02, 0x03, // constants and scratch memory
		0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, // add sub mul div or and
		0x64, 0x6c, 0x74, 0x7c, 0x84, 0x94, 0x9c, 0xa4, 0xac, // shifts neg mod xor
		0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, // jumps
		0x06, 0x16, 0x07, 0x87, // returns, tax, txa
	} {
		ok[op] = true
	}
	return ok
}()

// ParseProgram reads what tcpdump -ddd prints: the number of instructions,
// then one instruction a line as four decimal numbers. Commas are taken for
// line ends. The program is checked as the kernel would.
func ParseProgram(text string) ([]bpf.RawInstruction, error) {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ',' || r == '\r' })
	if len(lines) == 0 {
		return nil, errors.New("read filter program: it is empty; wanted is what tcpdump -ddd prints")
	}
	count, err := strconv.ParseUint(strings.TrimSpace(lines[0]), 10, 32)
	if err != nil || count == 0 || count > maxProgram {
		return nil, fmt.Errorf("read filter program: first line %.40q is not a number of instructions, 1 to %d", lines[0], maxProgram)
	}
	if uint64(len(lines)-1) != count {
		return nil, fmt.Errorf("read filter program: it says %d instructions and has %d", count, len(lines)-1)
	}
	program := make([]bpf.RawInstruction, count)
	for i, line := range lines[1:] {
		if program[i], err = parseInstruction(line); err != nil {
			return nil, fmt.Errorf("read filter program: instruction %d, %.60q: %w", i, line, err)
		}
	}
	return program, checkProgram(program)
}

func parseInstruction(line string) (in bpf.RawInstruction, err error) {
	fields := strings.Fields(line)
	if len(fields) != 4 {
		return in, errors.New("wanted are four numbers")
	}
	var n [4]uint64
	for i, bits := range []int{16, 8, 8, 32} {
		if n[i], err = strconv.ParseUint(fields[i], 10, bits); err != nil {
			return in, err
		}
	}
	return bpf.RawInstruction{Op: uint16(n[0]), Jt: uint8(n[1]), Jf: uint8(n[2]), K: uint32(n[3])}, nil
}

// checkProgram applies the kernel's rules, so that a bad program is refused
// with a reason and before any privilege is needed.
func checkProgram(program []bpf.RawInstruction) error {
	if len(program) == 0 || len(program) > maxProgram {
		return fmt.Errorf("check filter program: %d instructions; must be 1 to %d", len(program), maxProgram)
	}
	for i, in := range program {
		if err := checkInstruction(in, len(program)-i-1); err != nil {
			return fmt.Errorf("check filter program: instruction %d: %w", i, err)
		}
	}
	if program[len(program)-1].Op&opClass != opRET {
		return errors.New("check filter program: the last instruction is not a return")
	}
	return nil
}

// checkInstruction checks one instruction that has so many behind it.
func checkInstruction(in bpf.RawInstruction, behind int) error {
	if in.Op > 0xff || !allowedOps[in.Op] {
		return fmt.Errorf("code %d is unknown", in.Op)
	}
	switch {
	case (in.Op == opDivK || in.Op == opModK) && in.K == 0:
		return errors.New("divides by zero")
	case (in.Op == opLshK || in.Op == opRshK) && in.K >= 32:
		return errors.New("shifts by more than 31")
	case usesScratch(in.Op) && in.K >= scratchSlots:
		return fmt.Errorf("scratch slot %d is not within 0 and %d", in.K, scratchSlots-1)
	case in.Op == opJA && in.K >= 1<<31:
		return errors.New("jumps backwards (protochain does); neither the kernel nor we run loops")
	case in.Op == opJA && uint64(in.K) >= uint64(behind),
		in.Op != opJA && in.Op&opClass == opJMP && max(int(in.Jt), int(in.Jf)) >= behind:
		return errors.New("jumps out of the program")
	}
	return nil
}

func usesScratch(op uint16) bool {
	switch op & opClass {
	case opST, opSTX:
		return true
	case opLD, opLDX:
		return op&opMode == opModeMEM
	}
	return false
}

// limitSnaplen has a program accept at most snaplen bytes of each packet, so
// that the kernel copies no more than we want.
func limitSnaplen(program []bpf.RawInstruction, snaplen uint32) {
	for i := range program {
		if program[i].Op == opRetK {
			program[i].K = min(program[i].K, snaplen)
		}
	}
}

// The header of a cooked capture (LINKTYPE_LINUX_SLL2), as programs see it. The
// kernel's filter runs before there is such a header: its packets begin behind
// it, and its fields are "extensions" (SKF_AD_OFF of linux/filter.h).
const (
	sll2Len = 20

	extensions   = 0xfffff000 // SKF_AD_OFF
	extProtocol  = extensions + 0
	extPktType   = extensions + 4
	extInterface = extensions + 8
)

// cookedFields tells where the kernel has the fields of the cooked header.
var cookedFields = map[uint32]uint32{0: extProtocol, 4: extInterface, 10: extPktType}

// cookProgram turns a program for LINKTYPE_LINUX_SLL2 into one for the kernel's
// filter on a cooked socket, as libpcap does in its fix_program.
func cookProgram(program []bpf.RawInstruction) error {
	for i := range program {
		in := &program[i]
		if !loadsPacket(in.Op) || in.K >= extensions {
			continue
		}
		if in.K >= sll2Len {
			in.K -= sll2Len
			continue
		}
		field, ok := cookedFields[in.K]
		if !ok || in.Op&opMode != opModeABS {
			return fmt.Errorf("filter looks at byte %d of the cooked header, which the kernel cannot do: leave that test to the analyst", in.K)
		}
		in.K = field
	}
	return nil
}

func loadsPacket(op uint16) bool {
	class, mode := op&opClass, op&opMode
	return (class == opLD || class == opLDX) && (mode == opModeABS || mode == opModeIND || mode == opModeMSH)
}
