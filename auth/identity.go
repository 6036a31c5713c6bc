// Package auth says who somebody is and what that allows. A sensor is known
// by its certificate's URI SAN alone, poip://sensor/NAME, compared byte for
// byte, and an analyst by poip://analyst/NAME; neither a subject nor anything
// that somebody says of himself counts. Names are checked before they become
// a SensorName, AnalystName or CaptureName, so whoever holds one may use it in
// a path, a log or a page. A sensor that has no certificate yet is known by a
// Token, once.
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

const (
	sensorURI  = "poip://sensor/"
	analystURI = "poip://analyst/"
)

// SensorURI is the URI SAN that a sensor's certificate carries.
func SensorURI(name SensorName) *url.URL {
	return &url.URL{Scheme: "poip", Host: "sensor", Path: "/" + string(name)}
}

// AnalystURI is the URI SAN that an analyst's certificate carries.
func AnalystURI(name AnalystName) *url.URL {
	return &url.URL{Scheme: "poip", Host: "analyst", Path: "/" + string(name)}
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280, 4.2.1.6

	errNoURI   = errors.New("no URI SAN")
	errSeveral = errors.New("more than one URI SAN")
)

// SensorOf reads the sensor's name from a verified certificate.
func SensorOf(cert *x509.Certificate) (SensorName, error) {
	text, err := nameOf(cert, sensorURI)
	if err != nil {
		return "", err
	}
	return ParseSensorName(text)
}

// AnalystOf reads the analyst's name from a verified certificate.
func AnalystOf(cert *x509.Certificate) (AnalystName, error) {
	text, err := nameOf(cert, analystURI)
	if err != nil {
		return "", err
	}
	return ParseAnalystName(text)
}

// nameOf returns what follows prefix in the certificate's one URI SAN.
//
// It reads the extension's bytes itself: x509 keeps URIs as url.URL, which
// lowers the scheme and decodes percent signs, so that unequal names may
// look equal there.
func nameOf(cert *x509.Certificate, prefix string) (string, error) {
	uri, err := uriOf(cert)
	if err != nil {
		return "", fmt.Errorf("read identity of certificate: %w; want one, %sNAME", err, prefix)
	}
	text, ok := strings.CutPrefix(uri, prefix)
	if !ok {
		return "", fmt.Errorf("read identity of certificate: its URI SAN is %.200q; want %sNAME", uri, prefix)
	}
	return text, nil
}

func uriOf(cert *x509.Certificate) (string, error) {
	if cert == nil {
		return "", errNoURI
	}
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(oidSubjectAltName) {
			return onlyURI(ext.Value)
		}
	}
	return "", errNoURI
}

// onlyURI returns the one name of kind uniformResourceIdentifier in a
// GeneralNames sequence. Names of other kinds are passed over.
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
		return "", errNoURI
	}
	return uri, nil
}
