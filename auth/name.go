package auth

import (
	"errors"
	"fmt"
	"strings"
)

// MaxNameLen bounds the name of a sensor or a capture, in bytes.
const MaxNameLen = 63

// SensorName is the checked name of a sensor, as its certificate says it.
type SensorName string

// AnalystName is the checked name of an analyst, as their certificate says it.
type AnalystName string

// CaptureName is the checked name of one capture on a sensor.
type CaptureName string

// StreamName names a stream: one capture on one sensor.
type StreamName struct {
	Sensor  SensorName
	Capture CaptureName
}

// String returns the name as it is written everywhere, "branch-7/eth0".
func (s StreamName) String() string { return string(s.Sensor) + "/" + string(s.Capture) }

// ParseSensorName checks the name of a sensor.
func ParseSensorName(s string) (SensorName, error) {
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("sensor name %.80q: %w", s, err)
	}
	return SensorName(s), nil
}

// ParseAnalystName checks the name of an analyst.
func ParseAnalystName(s string) (AnalystName, error) {
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("analyst name %.80q: %w", s, err)
	}
	return AnalystName(s), nil
}

// ParseCaptureName checks the name of a capture.
func ParseCaptureName(s string) (CaptureName, error) {
	if err := checkName(s); err != nil {
		return "", fmt.Errorf("capture name %.80q: %w", s, err)
	}
	return CaptureName(s), nil
}

// ParseStreamName takes a stream's name apart at its slash and checks both parts.
func ParseStreamName(s string) (StreamName, error) {
	sensor, capture, ok := strings.Cut(s, "/")
	if !ok {
		return StreamName{}, fmt.Errorf("stream name %.80q: no slash; write sensor/capture", s)
	}
	var name StreamName
	var err error
	if name.Sensor, err = ParseSensorName(sensor); err != nil {
		return StreamName{}, err
	}
	if name.Capture, err = ParseCaptureName(capture); err != nil {
		return StreamName{}, err
	}
	return name, nil
}

// checkName holds s against [a-z0-9][a-z0-9._-]{0,62}. What passes is safe in
// a path, a page, a log and a terminal.
func checkName(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	if len(s) > MaxNameLen {
		return fmt.Errorf("longer than %d bytes", MaxNameLen)
	}
	for i := range len(s) {
		if !nameByte(s[i], i == 0) {
			return fmt.Errorf("byte %q at %d; use a-z, 0-9 and, not in front, . _ -", s[i], i)
		}
	}
	return nil
}

func nameByte(c byte, first bool) bool {
	if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' {
		return true
	}
	return !first && (c == '.' || c == '_' || c == '-')
}
