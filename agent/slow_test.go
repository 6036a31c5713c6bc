package agent

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"poip/agent/capture"
	"poip/internal/poiptest"
	"poip/internal/transport"
)

// sealed is a transport.Conn with TLS over any net.Conn.
type sealed struct {
	pipeConn
	tls *tls.Conn
}

func (c sealed) Read(p []byte) (int, error)  { return c.tls.Read(p) }
func (c sealed) Write(p []byte) (int, error) { return c.tls.Write(p) }

// thin is a relay's end of a link on which bytes take their time.
type thin struct {
	net.Conn
	up, down time.Duration // that a byte takes
}

func (c thin) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 100)])
	time.Sleep(time.Duration(n) * c.up)
	return n, err
}

func (c thin) Write(p []byte) (int, error) {
	for i := range p {
		time.Sleep(c.down)
		if _, err := c.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// A link that is slow but alive is left alone, however long a batch takes one way
// and an ack the other: here 64 KiB at 1 KB/s, and 39 bytes at 2 B/s. Fails when
// a deadline is for a write or a frame as a whole.
func TestASlowLinkIsNotTakenForDead(t *testing.T) {
	ca := poiptest.NewCA(t)
	world(t, func(t *testing.T, relay *fakeRelay) {
		a := testAgent(t, relay, map[string]capture.Source{"file": file(300, 1400)})
		a.Open = func(context.Context, transport.Endpoint) (transport.Conn, error) {
			ours, theirs := net.Pipe()
			relay.serving.Go(func() {
				relay.serve(tls.Server(thin{ours, time.Millisecond, 500 * time.Millisecond}, ca.AnalystTLS()))
			})
			conn := newPipeConn(theirs)
			secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			if err := secured.Handshake(); err != nil {
				return nil, err
			}
			conn.Gather(true)
			return sealed{conn, secured}, nil
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := a.Run(ctx); err != nil {
			t.Fatal(err)
		}
		checkNumbered(t, relay.stream("s/file").epochs[0].packets, 0, 300)
		if s := a.Status()[0]; s.Sessions != 1 || s.Sent != 300 {
			t.Errorf("%d packets were sent in %d sessions", s.Sent, s.Sessions)
		}
		if took := time.Since(began); took < 420*time.Second {
			t.Errorf("the link was not slow: %s", took)
		}
	})
}
