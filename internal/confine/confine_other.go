//go:build !linux

package confine

import (
	"errors"
	"fmt"
)

var errElsewhere = errors.New("only Linux can confine a process")

// Apply does nothing, which is an error where something is required.
func Apply(need Need) (InForce, error) {
	if need.Mode == Require || need.User != "" {
		return InForce{}, fmt.Errorf("confine: %w: take out user, and confine = \"require\"", errElsewhere)
	}
	return InForce{Capabilities: "as they were", Why: errElsewhere.Error(), Seccomp: "off: " + errElsewhere.Error()}, nil
}
