package main

import "poip/certs"

// namesIn has the shell complete names of those who have certificates of the
// relay in a folder, sensors or analysts.
func namesIn(data *string, role certs.Role) func() []string {
	return func() (names []string) {
		if *data == "" || madeByInit(*data) != nil {
			return nil
		}
		records, err := certs.OpenRegistry(*data).List(role)
		if err != nil {
			return nil
		}
		for _, r := range records {
			names = append(names, r.Name)
		}
		return names
	}
}

// openTokens has the shell complete sensors that may join.
func openTokens(data *string) func() []string {
	return func() (names []string) {
		if *data == "" || madeByInit(*data) != nil {
			return nil
		}
		tokens, err := certs.OpenTokens(*data).List()
		if err != nil {
			return nil
		}
		for _, t := range tokens {
			names = append(names, string(t.Sensor))
		}
		return names
	}
}
