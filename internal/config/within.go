package config

import (
	"errors"
	"fmt"
)

// Within says of each of the errors that were joined into one where it is: each
// is a line of its own.
func Within(place string, err error) error {
	if err == nil || place == "" {
		return err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s: %w", place, err)
	}
	var out []error
	for _, err := range joined.Unwrap() {
		out = append(out, Within(place, err))
	}
	return errors.Join(out...)
}
