package config

import (
	"fmt"
	"math"
	"strconv"
)

// Count is a number of at least 1. Its zero value is of a key that nobody has
// written, and so cannot be written.
type Count int

// UnmarshalTOML reads a count.
func (c *Count) UnmarshalTOML(value any) error {
	n, ok := value.(int64)
	if !ok || n < 1 || n > math.MaxInt32 {
		return fmt.Errorf("%v: want a whole number, at least 1", value)
	}
	*c = Count(n)
	return nil
}

// Set reads a count from the command line.
func (c *Count) Set(text string) error {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("want a whole number, at least 1")
	}
	*c = Count(n)
	return nil
}

func (c Count) String() string { return strconv.Itoa(int(c)) }

// Type is what help calls it.
func (c Count) Type() string { return "number" }
