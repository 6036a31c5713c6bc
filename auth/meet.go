package auth

// Meets reports whether there can be a name that both patterns match. That
// some such names are too long, or begin with a character that names do not
// begin with, is not looked at: the answer may be yes where it is no.
func (p Pattern) Meets(q Pattern) bool {
	return meetParts(p.sensor, q.sensor) && meetParts(p.capture, q.capture)
}

// meetParts goes through the pairs of what is left of two parts. Their number
// is bounded by the product of the lengths, about four thousand.
func meetParts(a, b string) bool {
	if a == "" || b == "" {
		return false // of zero patterns
	}
	meets := make([]bool, (len(a)+1)*(len(b)+1)) // of what is left from i and j on
	at := func(i, j int) *bool { return &meets[i*(len(b)+1)+j] }
	for i := len(a); i >= 0; i-- {
		for j := len(b); j >= 0; j-- {
			starA, starB := i < len(a) && a[i] == '*', j < len(b) && b[j] == '*'
			switch {
			case i == len(a) && j == len(b):
				*at(i, j) = true
			case starA || starB:
				// A star stands for nothing, or for one more of the other's.
				*at(i, j) = starA && (*at(i+1, j) || j < len(b) && *at(i, j+1)) ||
					starB && (*at(i, j+1) || i < len(a) && *at(i+1, j))
			default:
				*at(i, j) = i < len(a) && j < len(b) && a[i] == b[j] && *at(i+1, j+1)
			}
		}
	}
	return *at(0, 0)
}
