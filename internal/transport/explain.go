package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/quic-go/quic-go"
)

// explain says what to do about a dial that failed.
func (d *Dialer) explain(ep Endpoint, err error) error {
	remedy := d.remedy(ep, err)
	err = explainPeer(err)
	if remedy == "" {
		return fmt.Errorf("dial %s: %w", ep, err)
	}
	return fmt.Errorf("dial %s: %w; %s", ep, err, remedy)
}

// remedy is what to do, or nothing.
func (d *Dialer) remedy(ep Endpoint, err error) string {
	if text := d.remedyTrust(err); text != "" {
		return text
	}
	var dns *net.DNSError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &dns):
		return "check the name, and this machine's resolver"
	case errors.As(err, &record):
		return fmt.Sprintf("no TLS there: is it a relay's intake (port %d unless configured), and not a listener for analysts?", DefaultPort)
	case errors.Is(err, errNoALPN):
		return fmt.Sprintf("is it a relay's intake (port %d unless configured)?", DefaultPort)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is the relay running, and its intake on this port?"
	case isTimeout(err) && ep.Scheme == "quic":
		return "no answer over UDP; where a firewall blocks it, use tls:// or list both"
	case isTimeout(err):
		return "no answer; is the host up, and the port open in firewalls?"
	}
	return ""
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// remedyTrust is about the relay's certificate.
func (d *Dialer) remedyTrust(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &authority):
		file := d.CAFile
		if file == "" {
			file = "the agent's CA file"
		}
		return "copy the relay's ca.pem to " + file
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate is for %s: dial one of these, or set relay_name", namesOf(name.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return expiryOf(invalid.Cert)
	}
	return ""
}

// namesOf lists what a certificate is valid for. They are the peer's bytes.
func namesOf(cert *x509.Certificate) string {
	var names []string
	for _, n := range cert.DNSNames {
		names = append(names, fmt.Sprintf("%q", n))
	}
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name at all"
	}
	return strings.Join(names, ", ")
}

func expiryOf(cert *x509.Certificate) string {
	if time.Now().Before(cert.NotBefore) {
		return fmt.Sprintf("the relay's certificate is valid from %s on: check this machine's clock", cert.NotBefore.Format(time.RFC3339))
	}
	return fmt.Sprintf("the relay's certificate has expired on %s: renew it, or check this machine's clock", cert.NotAfter.Format(time.RFC3339))
}

// explainPeer translates what a peer says to our certificate. In TLS 1.3 and
// QUIC a client hears that only after its own handshake has ended.
func explainPeer(err error) error {
	alert, ok := remoteAlert(err)
	err = printable(err)
	if !ok {
		return err
	}
	switch {
	case strings.Contains(alert, "no application protocol"):
		return fmt.Errorf("the peer does not take streams (%s) or let sensors join (%s): %w", ALPN, ALPNJoin, err)
	case strings.Contains(alert, "protocol version"):
		return fmt.Errorf("the peer does not speak TLS 1.3: %w", err)
	case strings.Contains(alert, "certificate"):
		return fmt.Errorf("the relay refuses our certificate: %w; let this sensor join anew (on that relay: poip-relay token SENSOR --replace, or poip-relay issue; here: poip-agent enroll --replace)", err)
	}
	return err
}

// remoteAlert finds the TLS alert that the peer has sent.
func remoteAlert(err error) (text string, ok bool) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error(), true
	}
	var transport *quic.TransportError
	if errors.As(err, &transport) && transport.Remote && transport.ErrorCode.IsCryptoError() {
		return tls.AlertError(transport.ErrorCode - 0x100).Error(), true
	}
	return "", false
}

// printable keeps a peer's bytes, names in a certificate or the reason of a
// QUIC close, from reaching a terminal as they are.
func printable(err error) error {
	if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return escaped{err}
	}
	return err
}

// escaped is an error whose text is escaped as in Go source.
type escaped struct{ error }

func (e escaped) Error() string {
	text := strconv.Quote(e.error.Error())
	return text[1 : len(text)-1]
}

func (e escaped) Unwrap() error { return e.error }
