package wire

import "encoding/binary"

// These frames carry certificates while a conversation goes on. What is in
// them is DER, and unchecked here but for its length.

// Bounds of what these frames hold. With them, each fits into MaxControlLen.
const (
	MaxRequestLen   = 4000 // of a certificate request, in bytes
	MaxCertificates = 8    // in one frame
)

// Renew asks for a certificate with a fresh key, in place of the one that the
// connection was opened with.
//
//	 0        2
//	+--------+-----------------------------+
//	| length | certificate request, PKCS#10 |
//	+--------+-----------------------------+
type Renew struct{ Request []byte }

// Certificate answers a Renew: the chain, the new certificate first; or none,
// and why.
//
//	 0       2
//	+-------+-------------------------------------------+-------------+
//	| count | certificates: each a 16-bit length, X.509 | text reason |
//	+-------+-------------------------------------------+-------------+
type Certificate struct {
	Chain  [][]byte
	Reason string // for people; empty where there is a chain
}

// Trust says which authorities the agent shall trust from here on, the newest
// first; then come the bridges by which it can tell that it may.
//
//	 0       2
//	+-------+--------------------------------------------+
//	| count | certificates: each a 16-bit length, X.509  |
//	+-------+--------------------------------------------+
type Trust struct{ Authorities [][]byte }

// AppendRenew appends a renew frame. The request is at most MaxRequestLen long.
func AppendRenew(dst []byte, r Renew) []byte {
	return appendFrame(dst, TypeRenew, func(b []byte) []byte { return appendBlob(b, r.Request) })
}

// AppendCertificate appends a certificate frame. A reason beside a chain is
// left out.
func AppendCertificate(dst []byte, c Certificate) []byte {
	if len(c.Chain) > 0 {
		c.Reason = ""
	}
	return appendFrame(dst, TypeCertificate, func(b []byte) []byte {
		return appendText(appendBlobs(b, c.Chain), c.Reason, MaxReasonLen)
	})
}

// AppendTrust appends a trust frame.
func AppendTrust(dst []byte, t Trust) []byte {
	return appendFrame(dst, TypeTrust, func(b []byte) []byte { return appendBlobs(b, t.Authorities) })
}

// CertificatesFit says whether a frame has room for all of these.
func CertificatesFit(ders [][]byte) bool {
	size := 4 // the count, and the length of a reason that is empty
	for _, der := range ders {
		size += 2 + len(der)
	}
	return len(ders) <= MaxCertificates && size <= MaxControlLen
}

// ParseRenew reads a renew. What it holds is a part of payload.
func ParseRenew(payload []byte) (Renew, error) {
	p := parser{b: payload}
	r := Renew{Request: p.blob(MaxRequestLen)}
	return r, p.done("renew")
}

// ParseCertificate reads a certificate: a chain, or else a reason. What it
// holds is a part of payload.
func ParseCertificate(payload []byte) (Certificate, error) {
	p := parser{b: payload}
	c := Certificate{Chain: p.blobs(), Reason: p.text(MaxReasonLen)}
	p.bad = p.bad || (len(c.Chain) == 0) == (c.Reason == "")
	return c, p.done("certificate")
}

// ParseTrust reads a trust: one authority at least. What it holds is a part
// of payload.
func ParseTrust(payload []byte) (Trust, error) {
	p := parser{b: payload}
	t := Trust{Authorities: p.blobs()}
	p.bad = p.bad || len(t.Authorities) == 0
	return t, p.done("trust")
}

func appendBlob(b, blob []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(blob)))
	return append(b, blob...)
}

func appendBlobs(b []byte, blobs [][]byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(len(blobs)))
	for _, blob := range blobs {
		b = appendBlob(b, blob)
	}
	return b
}

// blob takes bytes that are not empty.
func (p *parser) blob(most int) []byte {
	n := int(p.u16())
	if n == 0 || n > most || n > len(p.b) {
		p.bad, p.b = true, nil
		return nil
	}
	return p.take(n)
}

func (p *parser) blobs() (out [][]byte) {
	n := int(p.u16())
	if n > MaxCertificates {
		p.bad, p.b = true, nil
		return nil
	}
	for range n {
		out = append(out, p.blob(MaxControlLen))
	}
	return out
}
