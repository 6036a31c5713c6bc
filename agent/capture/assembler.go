package capture

import "golang.org/x/net/bpf"

// assembler puts together classic BPF programs whose jumps go to labels
// further down. Jumps of any length work: a conditional jump reaches 255
// instructions only, so each one goes around an unconditional jump.
type assembler struct {
	code []bpf.RawInstruction
}

// label is a place further down in a program. Its zero value is ready to be
// jumped to, and to be placed once.
type label struct {
	jumps []int // to it: indices of unconditional jumps
}

// add appends instructions. They are constants of this package, so one that
// does not assemble is a mistake in the program text.
func (a *assembler) add(instructions ...bpf.Instruction) {
	for _, in := range instructions {
		raw, err := in.Assemble()
		if err != nil {
			panic("assemble a packet filter: " + err.Error())
		}
		a.code = append(a.code, raw)
	}
}

// jump goes to a label.
func (a *assembler) jump(to *label) {
	to.jumps = append(to.jumps, len(a.code))
	a.add(bpf.Jump{})
}

// when goes to a label if register A compares so with value.
func (a *assembler) when(test bpf.JumpTest, value uint32, to *label) {
	a.add(bpf.JumpIf{Cond: test, Val: value, SkipFalse: 1})
	a.jump(to)
}

// unless goes to a label if register A does not compare so with value.
func (a *assembler) unless(test bpf.JumpTest, value uint32, to *label) {
	a.add(bpf.JumpIf{Cond: test, Val: value, SkipTrue: 1})
	a.jump(to)
}

// place puts a label in front of the next instruction.
func (a *assembler) place(l *label) {
	for _, at := range l.jumps {
		a.code[at].K = uint32(len(a.code) - at - 1)
	}
}
