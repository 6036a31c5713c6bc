// Package auth says who somebody is and what that allows. A sensor is known
// by its certificate's URI SAN alone, poip://sensor/NAME, compared byte for
// byte; neither its subject nor anything that it says of itself counts. Names
// are checked before they become a SensorName or CaptureName, so whoever
// holds one may use it in a path, a log or a page.
//
// All of this is plain values and functions: the relay is handed MayPublish,
// and a Pattern for each listener. Zero values deny.
package auth

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

const sensorURI = "poip://sensor/"

// SensorURI is the URI SAN that a sensor's certificate carries.
func SensorURI(name SensorName) *url.URL {
	return &url.URL{Scheme: "poip", Host: "sensor", Path: "/" + string(name)}
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280, 4.2.1.6

	errNoIdentity = errors.New("no URI SAN " + sensorURI + "NAME")
	errSeveral    = errors.New("more than one URI SAN")
)

// SensorOf reads the sensor's name from a verified certificate.
//
// It reads the extension's bytes itself: x509 keeps URIs as url.URL, which
// lowers the scheme and decodes percent signs, so that unequal names may
// look equal there.
func SensorOf(cert *x509.Certificate) (SensorName, error) {
	if cert == nil {
		return "", errNoIdentity
	}
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			name, err := sensorOfSAN(ext.Value)
			if err != nil {
				return "", fmt.Errorf("read identity of certificate: %w", err)
			}
			return name, nil
		}
	}
	return "", fmt.Errorf("read identity of certificate: %w", errNoIdentity)
}

// sensorOfSAN reads a GeneralNames sequence. Names of other kinds than URI
// are passed over.
func sensorOfSAN(der []byte) (SensorName, error) {
	uri, err := onlyURI(der)
	if err != nil {
		return "", err
	}
	text, ok := strings.CutPrefix(uri, sensorURI)
	if !ok {
		return "", fmt.Errorf("%w: it is %.200q", errNoIdentity, uri)
	}
	return ParseSensorName(text)
}

// onlyURI returns the one name of kind uniformResourceIdentifier.
func onlyURI(der []byte) (string, error) {
	const kindURI = 6 // GeneralName's context tag, RFC 5280, 4.2.1.6
	var names asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 ||
		names.Class != asn1.ClassUniversal || names.Tag != asn1.TagSequence || !names.IsCompound {
		return "", errors.New("subject alternative name is not a sequence")
	}
	var uri string
	found := false
	for rest := names.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return "", fmt.Errorf("subject alternative name: %w", err)
		}
		if name.Class != asn1.ClassContextSpecific || name.Tag != kindURI {
			continue
		}
		if found {
			return "", errSeveral
		}
		uri, found = string(name.Bytes), true
	}
	if !found {
		return "", errNoIdentity
	}
	return uri, nil
}
