package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A progress draws a bar for each file that is read, where standard error is
// a terminal. The log goes through it, so that the two do not mix.
type progress struct {
	bars   *mpb.Progress // nil: no terminal
	stderr *os.File
	redraw chan any // whoever sends has it all drawn anew
	over   chan any // closed when nothing is drawn any more

	mu  sync.Mutex
	bar map[string]*mpb.Bar // by capture; guarded by mu
}

func newProgress(stderr io.Writer) *progress {
	f, ok := stderr.(*os.File)
	if !ok {
		return &progress{}
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return &progress{}
	}
	p := &progress{stderr: f, redraw: make(chan any), over: make(chan any), bar: map[string]*mpb.Bar{}}
	// Drawn when there is news, not by a clock: lines of the log wait for that.
	p.bars = mpb.New(mpb.WithConsoleWriter(console{cupwriter.New(f, false)}), mpb.WithWidth(40), mpb.WithManualRefresh(p.redraw), mpb.WithShutdownNotifier(p.over))
	return p
}

// A console is a terminal with a size, also where it does not know its own.
type console struct{ mpb.ConsoleWriter }

func (c console) GetTermSize() (width, height int, err error) {
	width, height, err = c.ConsoleWriter.GetTermSize()
	if width == 0 || height == 0 {
		width, height = 80, 24
	}
	return width, height, err
}

// log is where log lines go, in place of stderr.
func (p *progress) log(stderr io.Writer) io.Writer {
	if p.bars == nil {
		return stderr
	}
	return p
}

// Write puts lines of the log above the bars, or simply out when these are over.
func (p *progress) Write(lines []byte) (int, error) {
	n, err := p.bars.Write(lines)
	if err != nil {
		return p.stderr.Write(lines)
	}
	p.draw()
	return n, nil
}

// draw has everything drawn that is new: the drawing has begun at the latest
// when the next draw returns.
func (p *progress) draw() {
	select {
	case p.redraw <- time.Now():
	case <-p.over:
	}
}

// show says how many bytes of a capture's file have been read.
func (p *progress) show(capture string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bar := p.bar[capture]
	if bar == nil {
		bar = p.bars.AddBar(total,
			mpb.PrependDecorators(decor.Name(capture+" "), decor.CountersKibiByte("% .1f / % .1f")),
			mpb.AppendDecorators(decor.Percentage(), decor.Name(" "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f")))
		p.bar[capture] = bar
	}
	bar.SetCurrent(done)
	p.draw()
}

// end leaves the bars as they are, and nothing unsaid.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, bar := range p.bar {
		bar.Abort(false)
	}
	p.mu.Unlock()
	p.draw()
	p.draw()
	p.bars.Wait()
}
