package main

import (
	"io"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A progress draws a bar for each file that is read, where standard error is
// a terminal. The log goes through it, so that the two do not mix.
type progress struct {
	bars *mpb.Progress // nil: no terminal

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
	return &progress{bars: mpb.New(mpb.WithOutput(f), mpb.WithWidth(40)), bar: map[string]*mpb.Bar{}}
}

// log is where log lines go, in place of stderr.
func (p *progress) log(stderr io.Writer) io.Writer {
	if p.bars == nil {
		return stderr
	}
	return p.bars
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
}

// end leaves the bars as they are.
func (p *progress) end() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, bar := range p.bar {
		bar.Abort(false)
	}
	p.mu.Unlock()
	p.bars.Wait()
}
