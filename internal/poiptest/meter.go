package poiptest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// pages fetches what a program shows of itself. It keeps no connection, so
// that it leaves none behind in what it looks at.
var pages = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Page fetches a page of a program's administration.
func Page(address, path string) (string, error) {
	response, err := pages.Get("http://" + address + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return string(body), err
}

// Metrics is a page of metrics in Prometheus' text form.
type Metrics string

// Sum adds a metric up over all label sets that contain each of the labels, as
// in `cause="kernel_drop"`. One that is not there is 0.
func (m Metrics) Sum(name string, labels ...string) (sum float64) {
lines:
	for line := range strings.Lines(string(m)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue lines
			}
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err == nil {
			sum += value
		}
	}
	return sum
}
