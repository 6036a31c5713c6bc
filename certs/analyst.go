package certs

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"poip/auth"
)

// The files of an analyst's identity, beside CAFile.
const (
	AnalystCert   = "analyst.pem"
	AnalystKey    = "analyst.key"
	AnalystBundle = "analyst-bundle.pem" // key, certificate, and what leads to the CA: for tools that take one file
	AnalystP12    = "analyst.p12"        // the same as PKCS #12, for browsers, Java, Windows
)

// IssueAnalyst makes an analyst's identity, signed by the authority in dir, in
// the folder out. The password guards the PKCS #12 file; the others are
// guarded by their modes.
func IssueAnalyst(dir string, name auth.AnalystName, out, password string, life time.Duration) error {
	if _, err := auth.ParseAnalystName(string(name)); err != nil {
		return fmt.Errorf("issue: %w", err)
	}
	if password == "" {
		return errors.New("issue: the password of the PKCS #12 file is empty")
	}
	ca, err := openAuthority(dir)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	who := AnalystSubject(name)
	analyst, err := ca.issue(who.template(), life)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	packed, err := pack(analyst, slices.Concat(decodeCerts(ca.chain), decodeCerts(ca.roots)), password)
	if err != nil {
		return fmt.Errorf("issue %q: %w", string(name), err)
	}
	return handOver(dir, who, analyst, out, []file{
		{CAFile, ca.roots, publicMode},
		{AnalystCert, analyst.cert, publicMode},
		{AnalystKey, analyst.key, secretMode},
		{AnalystBundle, slices.Concat(analyst.key, analyst.cert), secretMode},
		{AnalystP12, packed, secretMode},
	})
}

// handOver writes an identity down, and enters it; both or neither.
func handOver(dir string, who Subject, id identity, out string, files []file) error {
	if err := fill(out, files); err != nil {
		return err
	}
	if err := OpenRegistry(dir).Add(who, EntryOf(id.leaf, HowIssued, "")); err != nil {
		return unfill(out, files, err) // nobody could revoke it by its name
	}
	return nil
}

// pack is an identity as PKCS #12: AES-256 and PBKDF2, as tools since 2018 read.
func pack(id identity, others [][]byte, password string) ([]byte, error) {
	block, _ := pem.Decode(id.key)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	var authorities []*x509.Certificate
	for _, der := range others {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		authorities = append(authorities, cert)
	}
	packed, err := pkcs12.Modern2023.Encode(key, id.leaf, authorities, password)
	if err != nil {
		return nil, fmt.Errorf("make PKCS #12: %w", err)
	}
	return packed, nil
}
