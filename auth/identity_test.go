package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// The kinds of GeneralName, RFC 5280, 4.2.1.6.
const (
	kindEmail     = 1
	kindDNS       = 2
	kindDirectory = 4
	kindURI       = 6
)

type generalName struct {
	kind  int
	value string
}

func uri(s string) generalName { return generalName{kindURI, s} }

// san encodes names as a certificate's subject alternative name.
func san(t testing.TB, names ...generalName) []byte {
	var raw []asn1.RawValue
	for _, n := range names {
		raw = append(raw, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.kind, Bytes: []byte(n.value)})
	}
	der, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certWith(value []byte) *x509.Certificate {
	return &x509.Certificate{
		Subject:    pkix.Name{CommonName: "branch-7"},
		Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}}, {Id: oidSubjectAltName, Value: value}},
	}
}

func TestSensorOf(t *testing.T) {
	for _, c := range []struct {
		what  string
		names []generalName
		want  SensorName // empty: refused
	}{
		{"its own", []generalName{uri("poip://sensor/branch-7")}, "branch-7"},
		{"beside names of other kinds", []generalName{{kindDNS, "branch-8"}, uri("poip://sensor/branch-7"), {kindEmail, "a@b"}}, "branch-7"},
		{"a dot at the end is another name", []generalName{uri("poip://sensor/branch-7.")}, "branch-7."},
		{"no name", nil, ""},
		{"a DNS name only", []generalName{{kindDNS, "branch-7"}}, ""},
		{"a DNS name that looks like it", []generalName{{kindDNS, "poip://sensor/branch-7"}}, ""},
		{"an e-mail that looks like it", []generalName{{kindEmail, "poip://sensor/branch-7"}}, ""},
		{"a directory name that looks like it", []generalName{{kindDirectory, "poip://sensor/branch-7"}}, ""},
		{"twice", []generalName{uri("poip://sensor/branch-7"), uri("poip://sensor/branch-7")}, ""},
		{"a second one", []generalName{uri("poip://sensor/branch-7"), uri("poip://sensor/branch-8")}, ""},
		{"a second one of another scheme", []generalName{uri("poip://sensor/branch-7"), uri("https://example.org/")}, ""},
		{"behind another scheme", []generalName{uri("https://example.org/"), uri("poip://sensor/branch-7")}, ""},
		{"another scheme", []generalName{uri("https://sensor/branch-7")}, ""},
		{"a longer scheme", []generalName{uri("xpoip://sensor/branch-7")}, ""},
		{"another host", []generalName{uri("poip://relay/branch-7")}, ""},
		{"an upper-case scheme", []generalName{uri("POIP://sensor/branch-7")}, ""},
		{"an upper-case host", []generalName{uri("poip://Sensor/branch-7")}, ""},
		{"an upper-case name", []generalName{uri("poip://sensor/Branch-7")}, ""},
		{"a host with a dot at the end", []generalName{uri("poip://sensor./branch-7")}, ""},
		{"a port", []generalName{uri("poip://sensor:1/branch-7")}, ""},
		{"an empty port", []generalName{uri("poip://sensor:/branch-7")}, ""},
		{"a user", []generalName{uri("poip://root@sensor/branch-7")}, ""},
		{"a query", []generalName{uri("poip://sensor/branch-7?x=1")}, ""},
		{"an empty query", []generalName{uri("poip://sensor/branch-7?")}, ""},
		{"a fragment", []generalName{uri("poip://sensor/branch-7#x")}, ""},
		{"percent signs", []generalName{uri("poip://sensor/%62ranch-7")}, ""},
		{"a slash at the end", []generalName{uri("poip://sensor/branch-7/")}, ""},
		{"two slashes", []generalName{uri("poip://sensor//branch-7")}, ""},
		{"a path", []generalName{uri("poip://sensor/branch-7/eth0")}, ""},
		{"dots", []generalName{uri("poip://sensor/..")}, ""},
		{"a backslash", []generalName{uri(`poip://sensor\branch-7`)}, ""},
		{"no authority", []generalName{uri("poip:sensor/branch-7")}, ""},
		{"no name behind it", []generalName{uri("poip://sensor/")}, ""},
		{"an empty URI", []generalName{uri("")}, ""},
		{"a NUL", []generalName{uri("poip://sensor/branch-7\x00")}, ""},
		{"a NUL in front", []generalName{uri("\x00poip://sensor/branch-7")}, ""},
		{"a line break", []generalName{uri("poip://sensor/branch-7\n")}, ""},
		{"a space", []generalName{uri(" poip://sensor/branch-7")}, ""},
		{"a Cyrillic letter", []generalName{uri("poip://sensor/br\u0430nch-7")}, ""},
		{"a full-width digit", []generalName{uri("poip://sensor/branch-\uff17")}, ""},
		{"a name too long", []generalName{uri("poip://sensor/" + strings.Repeat("a", 64))}, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, err := SensorOf(certWith(san(t, c.names...)))
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("raw bytes in %q", err)
			}
			analyst, err := AnalystOf(certWith(san(t, asAnalyst(c.names)...)))
			if string(analyst) != string(c.want) || (err == nil) != (c.want != "") {
				t.Errorf("as an analyst: got %q, %v; want %q", analyst, err, c.want)
			}
			if analyst, err := AnalystOf(certWith(san(t, c.names...))); err == nil {
				t.Errorf("a sensor's certificate is that of analyst %q", analyst)
			}
			if sensor, err := SensorOf(certWith(san(t, asAnalyst(c.names)...))); err == nil {
				t.Errorf("an analyst's certificate is that of sensor %q", sensor)
			}
		})
	}
}

// asAnalyst has an analyst's names in place of a sensor's.
func asAnalyst(names []generalName) (out []generalName) {
	for _, n := range names {
		out = append(out, generalName{n.kind, strings.NewReplacer("//sensor", "//analyst", "//Sensor", "//Analyst", ":sensor", ":analyst", "@sensor", "@analyst").Replace(n.value)})
	}
	return out
}

func TestSensorOfNothing(t *testing.T) {
	for what, cert := range map[string]*x509.Certificate{
		"no certificate":   nil,
		"a zero one":       {},
		"a subject only":   {Subject: pkix.Name{CommonName: "branch-7"}},
		"a parsed name":    {DNSNames: []string{"branch-7"}},
		"an empty value":   certWith(nil),
		"not a sequence":   certWith([]byte{4, 2, 1, 2}),
		"a cut value":      certWith(san(t, uri("poip://sensor/branch-7"))[:10]),
		"bytes behind it":  certWith(append(san(t, uri("poip://sensor/branch-7")), 0)),
		"a cut name in it": certWith([]byte{0x30, 2, 0x86, 5}),
	} {
		if name, err := SensorOf(cert); err == nil || name != "" {
			t.Errorf("%s: got %q, %v", what, name, err)
		}
	}
}

func TestSensorURIIsReadBack(t *testing.T) {
	for _, name := range []SensorName{"branch-7", "a", "0._-", "b.c"} {
		got, err := SensorOf(certWith(san(t, uri(SensorURI(name).String()))))
		if err != nil || got != name {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
}

func TestMayPublishDeniesByDefault(t *testing.T) {
	for _, c := range []struct {
		id     SensorName
		stream StreamName
		may    bool
	}{
		{"branch-7", StreamName{"branch-7", "eth0"}, true},
		{"branch-7", StreamName{"branch-8", "eth0"}, false},
		{"branch-7", StreamName{"branch-7.", "eth0"}, false},
		{"branch-7", StreamName{"branch-77", "eth0"}, false},
		{"branch-77", StreamName{"branch-7", "eth0"}, false},
		{"branch-7", StreamName{"", "eth0"}, false},
		{"branch-7", StreamName{"branch-7", ""}, false},
		{"branch-7", StreamName{}, false},
		{"", StreamName{"", "eth0"}, false},
		{"", StreamName{}, false},
	} {
		if err := MayPublish(c.id, c.stream); (err == nil) != c.may {
			t.Errorf("%q publishes %v: %v", c.id, c.stream, err)
		}
	}
}

// Whatever bytes stand in the extension, an identity is read only from those
// of exactly one URI, and encoding that again gives the same identity.
func FuzzCertIdentity(f *testing.F) {
	f.Add(san(f, uri("poip://sensor/branch-7")))
	f.Add(san(f, uri("poip://sensor/branch-7"), uri("poip://sensor/branch-8")))
	f.Add(san(f, generalName{kindDNS, "branch-7"}, uri("poip://sensor/%62")))
	f.Add([]byte{0x30, 0x80, 0x86, 1, 'a', 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		name, err := SensorOf(certWith(der))
		if err != nil {
			if name != "" {
				t.Errorf("%q beside %v", name, err)
			}
			return
		}
		if !grammar.MatchString(string(name)) || strings.Count(string(der), sensorURI+string(name)) != 1 {
			t.Errorf("%q from %x", name, der)
		}
		if again, err := SensorOf(certWith(san(t, uri(sensorURI+string(name))))); err != nil || again != name {
			t.Errorf("%q became %q, %v", name, again, err)
		}
	})
}
