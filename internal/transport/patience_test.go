package transport_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"poip/internal/transport"
)

const patience = 600 * time.Millisecond

// sip reads slowly until the connection ends.
func sip(c transport.Conn) {
	buf := make([]byte, 256<<10)
	for {
		for n := 0; n < len(buf); {
			m, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += m
		}
		time.Sleep(40 * time.Millisecond)
	}
}

// A write that takes several times the patience succeeds while the peer takes
// some of it. Fails when a deadline is for a write as a whole.
func TestASlowPeerIsNotTakenForDead(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		go sip(relays)
		must(t, agent.SetWritePatience(patience))
		begin, big := time.Now(), make([]byte, 4<<20)
		for range 2 { // of which the kernel takes a part at once
			send(t, agent, big)
		}
		for time.Since(begin) < 3*patience {
			send(t, agent, big[:1<<20])
		}
		agent.Abort()
		relays.Abort()
	})
}

func TestAPeerThatTakesNothingIsDead(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		agent, relays := opened(t, network)
		must(t, agent.SetWritePatience(patience))
		var err error
		for begin := time.Now(); err == nil; {
			_, err = agent.Write(make([]byte, 256<<10))
			if took := time.Since(begin); err == nil {
				begin = time.Now()
			} else if took < patience || took > 4*patience {
				t.Errorf("it was given up after %s", took)
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		agent.Abort()
		relays.Abort()
	})
}

// Progress does not put off a deadline that somebody sets to end a write.
func TestAWriteIsInterrupted(t *testing.T) {
	both(t, func(t *testing.T, network string) {
		for what, interrupt := range map[string]func(transport.Conn){
			"a deadline": func(c transport.Conn) { c.SetWriteDeadline(time.Now().Add(patience / 4)) },
			"Close":      func(c transport.Conn) { c.Close() },
			"Abort":      func(c transport.Conn) { c.Abort() },
		} {
			t.Run(what, func(t *testing.T) {
				agent, relays := opened(t, network)
				go sip(relays)
				must(t, agent.SetWritePatience(10*time.Second))
				written := make(chan error)
				go func() {
					_, err := agent.Write(make([]byte, 256<<20)) // 40 s
					written <- err
				}()
				time.Sleep(patience / 2)
				begin := time.Now()
				interrupt(agent)
				if err := <-written; err == nil {
					t.Error("it was written to the end")
				}
				if took := time.Since(begin); took > 6*time.Second {
					t.Errorf("the write ended %s later", took)
				}
				agent.Abort()
				relays.Abort()
			})
		}
	})
}
