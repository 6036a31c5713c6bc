package auth

import "fmt"

// MayPublish says whether the sensor that a certificate names may publish a
// stream: under its own name only.
func MayPublish(id SensorName, stream StreamName) error {
	if id == "" || stream.Capture == "" {
		return fmt.Errorf("publish %q: no identity or no name", stream)
	}
	if stream.Sensor != id {
		return fmt.Errorf("publish %q: the certificate is that of sensor %q", stream, string(id))
	}
	return nil
}
