package capture

import (
	"bufio"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Bounds of what a command can put into our log.
const (
	maxLine       = 512 // bytes; the rest of a longer one is left out
	maxLines      = 50  // in each linesInterval; more are counted
	linesInterval = 10 * time.Second
)

// echo writes the lines that a command says to the log.
type echo struct {
	log  *slog.Logger // set before
	last string       // the latest line; for others when read has returned

	since   time.Time // the beginning of the interval
	lines   int       // logged in it
	omitted int
}

// read reads lines until there are no more.
func (e *echo) read(in io.Reader) {
	lines := bufio.NewReaderSize(in, maxLine)
	for rest := false; ; {
		line, more, err := lines.ReadLine()
		if err != nil {
			break
		}
		if text := strings.TrimSpace(string(line)); !rest && text != "" {
			e.say(text)
		}
		rest = more
	}
	e.count()
}

func (e *echo) say(text string) {
	e.last = text
	if now := time.Now(); now.Sub(e.since) > linesInterval {
		e.count()
		e.since, e.lines = now, 0
	}
	if e.lines == maxLines {
		e.omitted++
		return
	}
	e.lines++
	e.log.Info("command says", "line", text)
}

func (e *echo) count() {
	if e.omitted > 0 {
		e.log.Warn("command says too much", "lines_omitted", e.omitted)
		e.omitted = 0
	}
}
