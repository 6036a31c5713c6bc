// Package broker is the relay: it takes streams of packets in from agents,
// keeps the latest of each in memory and offers them to any number of
// analysts as PCAP-over-IP.
//
// A packet's route: a session (intake.go, its clock in pace.go) reads a batch
// from an agent straight into the ring (ring.go) of its stream (stream.go),
// where it becomes visible to cursors (cursor.go). The fanout (fanout.go) tells
// their subscribers (subscriber.go), each of which is one analyst's connection.
// They render it in the form that their listener (listener.go) wants, once for
// all of them (rendition.go), and write it without ever waiting for a slow one
// (outlet.go). Who may write is said in role.go, how a subscriber ends in
// order.go, how it reads several streams in merge.go.
//
// Where a stream has a history, the session hands each batch to that as well and
// acknowledges what is on disk (care.go, history.go), and cursors that the ring
// has passed read on from there (past.go). archive.go has all histories, and
// trims them.
//
// The Broker knows who is there: it lets sessions in (register.go), and the QUIC
// connections beneath them (peer.go), opens doors (doors.go), lets subscribers
// in (admit.go, analyst.go) and introduces them to each other (introduce.go).
// Which analyst may read what is decided in members.go; how much strangers and
// sensors may take, in limits.go and rate.go. The administration (admin.go) bounds
// who waits there (hall.go), asks who somebody is (desk.go), turns forgeries away
// (porter.go) and lets operators act (actions.go). What the Broker counts can be
// read at status.go and metrics.go, what it records for later at audit.go; what it
// remembers across a restart is in state.go.
package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"poip/auth"
	"poip/internal/audit"
	"poip/internal/journal"
	"poip/internal/transport"
)

// Options are what a Broker is handed beside its configuration: the log, and
// every decision about trust.
type Options struct {
	Log *slog.Logger // default: slog.Default()

	// IntakeTLS asks for and verifies the certificates of agents, over TCP
	// and QUIC.
	IntakeTLS *tls.Config

	// AnalystTLS makes the configuration of TLS listeners, by their key
	// client_auth: "none" or "cert". It is called when a listener is made.
	AnalystTLS func(clientAuth string) (*tls.Config, error)

	// SensorOf names the owner of a verified certificate; default auth.SensorOf.
	SensorOf func(*x509.Certificate) (auth.SensorName, error)

	// Standing says why a peer with this chain of certificates is not to be
	// talked to any more, as a wire.Refusal; default: everybody stays.
	Standing func([]*x509.Certificate) error

	// Renew signs the request of a sensor which goes by this chain, and
	// returns the new one; default: nobody renews.
	Renew func(chain []*x509.Certificate, request []byte, remote string) ([]*x509.Certificate, error)

	// Enroll serves those who ask for a first certificate, by transport.ALPNJoin;
	// nil: nobody gets one. It returns soon after its context ends.
	Enroll func(context.Context, transport.Conn)

	// Expiry, if set, is when the relay's own certificate ends.
	Expiry func() time.Time

	// AnalystOf is the same for those who read; default auth.AnalystOf.
	AnalystOf func(*x509.Certificate) (auth.AnalystName, error)

	// Audit keeps the record of who did what; nil drops it. Whoever opened it
	// closes it, after Run.
	Audit *audit.Log

	// Reload does what SIGHUP does, and Revoke what the command of that name
	// does, for operators at the administration; nil: they cannot.
	Reload func() error
	Revoke func(RevokeOrder) error

	// MayPublish says why a sensor may not send a stream; default auth.MayPublish.
	MayPublish func(auth.SensorName, auth.StreamName) error

	// Listen and ListenPacket open sockets; default those of package net.
	Listen       func(network, address string) (net.Listener, error)
	ListenPacket func(network, address string) (net.PacketConn, error)

	// HistoryKey encrypts histories; nil leaves them plain.
	HistoryKey *journal.Key

	// OpenJournal opens the history of a stream; default journal.Open.
	OpenJournal func(dir string, o journal.Options) (*journal.Journal, error)
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.SensorOf == nil {
		o.SensorOf = auth.SensorOf
	}
	if o.AnalystOf == nil {
		o.AnalystOf = auth.AnalystOf
	}
	if o.MayPublish == nil {
		o.MayPublish = auth.MayPublish
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.ListenPacket == nil {
		o.ListenPacket = net.ListenPacket
	}
	if o.OpenJournal == nil {
		o.OpenJournal = journal.Open
	}
	return o
}

// A Broker is a relay at work.
type Broker struct {
	// Set once by New.
	opts    Options
	log     *slog.Logger
	store   store
	archive *archive       // nil: histories are off
	tcp     net.Listener   // nil: off
	quic    net.PacketConn // nil: off
	admin   net.Listener   // nil: off

	arrivals   atomic.Uint64 // batches, of all rings
	complaints transport.Complaints
	gate       *transport.Gate         // strangers at the intake
	lobby      *transport.Gate         // strangers at TLS listeners
	waiting    *transport.Gate         // strangers at the administration
	members    atomic.Pointer[members] // changes under mu
	desk       *desk                   // of the administration
	guard      *guard

	refusedAgents atomic.Uint64

	life     context.Context // ends when analysts are let in no more
	end      context.CancelFunc
	hard     context.Context // ends when connections are closed, whatever they do
	cut      context.CancelFunc
	sessions sync.WaitGroup // those that still take something
	analysts sync.WaitGroup // goroutines of sockets and connections

	mu         sync.Mutex // guards what follows, and what says so elsewhere
	config     Config
	streams    map[auth.StreamName]*stream
	talking    crowd                    // conversations with each sensor
	connected  crowd                    // QUIC connections of each
	reading    map[auth.AnalystName]int // connections of each analyst
	rates      map[auth.SensorName]*rate
	order      []*stream // those that have a ring, in the order in which they came
	listeners  []*listener
	sockets    map[string]*socket           // by door.key
	tallies    map[string]*tally            // by listener
	ports      map[string]map[string]uint16 // by listener and stream
	forgetting time.Duration                // after which a stream that is offline may make room
	blocking   time.Duration                // for which a blocking reader may take nothing
	running    bool
	draining   bool
}

// New checks the configuration, recalls what is known and binds every socket.
// Run has to be called after it.
func New(cfg Config, opts Options) (*Broker, error) {
	plans, err := cfg.compile()
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	b := &Broker{
		opts:       opts,
		log:        opts.Log,
		guard:      newGuard(opts),
		store:      store{dir: cfg.Data},
		forgetting: 10 * time.Minute,
		blocking:   30 * time.Second,
		config:     cfg,
		streams:    make(map[auth.StreamName]*stream),
		talking:    make(crowd),
		connected:  make(crowd),
		reading:    make(map[auth.AnalystName]int),
		rates:      make(map[auth.SensorName]*rate),
		gate:       transport.NewGate(cfg.Limits.Pending, cfg.Limits.PendingPerAddress),
		lobby:      transport.NewGate(cfg.Limits.Pending, cfg.Limits.PendingPerAddress),
		waiting:    transport.NewGate(cfg.Limits.Pending, cfg.Limits.PendingPerAddress),
		sockets:    make(map[string]*socket),
		tallies:    make(map[string]*tally),
	}
	analysts, err := cfg.compileMembers()
	if err != nil {
		return nil, err
	}
	b.members.Store(&analysts)
	if b.desk, err = b.newDesk(cfg); err != nil {
		return nil, err
	}
	b.life, b.end = context.WithCancel(context.Background())
	b.hard, b.cut = context.WithCancel(context.Background())
	if cfg.Stream.History > 0 {
		b.archive = newArchive(cfg.Data, b.log, opts.OpenJournal)
		b.archive.key = opts.HistoryKey
	}
	if err := b.recall(); err != nil {
		b.shut()
		return nil, err
	}
	if err := b.open(plans); err != nil {
		b.shut()
		return nil, err
	}
	return b, nil
}

// open binds the sockets that the configuration names.
func (b *Broker) open(plans []plan) error {
	var err error
	if address := b.config.Intake.TCP; address != "" {
		if b.tcp, err = b.opts.Listen("tcp", address); err != nil {
			return fmt.Errorf("listen for agents (relay.intake.tcp): %w", err)
		}
	}
	if address := b.config.Intake.QUIC; address != "" {
		if b.quic, err = b.opts.ListenPacket("udp", address); err != nil {
			return fmt.Errorf("listen for agents (relay.intake.quic): %w", err)
		}
	}
	if address := b.config.Admin.Listen; address != "" {
		if b.admin, err = b.openAdmin(b.config.Admin); err != nil {
			return fmt.Errorf("listen for administration (relay.admin.listen): %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err = b.arrange(plans)
	return err
}

// shut closes every socket that is open.
func (b *Broker) shut() {
	b.end()
	b.cut()
	if b.tcp != nil {
		b.tcp.Close()
	}
	if b.quic != nil {
		b.quic.Close()
	}
	if b.admin != nil {
		b.admin.Close()
	}
	b.mu.Lock()
	for _, k := range b.sockets {
		k.ln.Close()
	}
	b.mu.Unlock()
	b.closeHistories(time.Now().Add(historiesEnd))
}

// How long the parts of a clean end may take: together less than five seconds.
const (
	sessionsEnd  = 1500 * time.Millisecond // agents, until they are refused
	analystsEnd  = 3 * time.Second         // analysts, until they have what is in the rings
	everyoneEnd  = 3800 * time.Millisecond // everybody, until they are cut off
	historiesEnd = time.Second             // what came last, until it is on disk
)

// Run serves agents and analysts until ctx is canceled, then ends in order:
// agents are told, analysts get what has arrived, all within five seconds. It
// returns when everything that it started has ended.
func (b *Broker) Run(ctx context.Context) error {
	intake, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	failed := make(chan error, 3)
	var servers sync.WaitGroup
	serve := func(f func() error) {
		servers.Go(func() {
			if err := f(); err != nil {
				failed <- err
			}
		})
	}
	options := transport.ServeOptions{Log: b.log, Gate: b.gate, Refused: b.auditAgentStranger, Admit: b.admitPeer, Trial: transport.ALPNJoin}
	if b.tcp != nil {
		serve(func() error { return transport.ServeTLS(intake, b.tcp, b.opts.IntakeTLS, options, b.converse) })
	}
	if b.quic != nil {
		serve(func() error { return transport.ServeQUIC(intake, b.quic, b.opts.IntakeTLS, options, b.converse) })
	}
	stopAdmin := func() {}
	if b.admin != nil {
		var admin context.Context
		admin, stopAdmin = context.WithCancel(context.WithoutCancel(ctx))
		serve(func() error { return b.serveAdmin(admin) })
	}
	b.start()
	b.opts.Audit.Write(audit.Entry{Event: audit.RelayStarted})

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	b.drain(stopIntake)
	stopAdmin()
	servers.Wait()
	b.guard.signing.Wait()
	b.analysts.Wait()
	b.mu.Lock()
	for _, st := range b.order {
		st.recent = st.ring.begun.Load()
	}
	b.mu.Unlock()
	b.closeHistories(time.Now().Add(historiesEnd))
	err = errors.Join(err, b.save())
	b.opts.Audit.Write(audit.Entry{Event: audit.RelayStopped, Reason: reasonOf(err)})
	return err
}

// start begins to accept analysts.
func (b *Broker) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = true
	for _, k := range b.sockets {
		b.analysts.Go(func() { b.accept(k) })
	}
	b.analysts.Go(b.keepHouse)
	if b.archive != nil {
		b.analysts.Go(func() { b.archive.keep(b.life, b.streamConfig) })
	}
	b.analysts.Go(func() { b.guard.watch(b.life) })
	b.analysts.Go(func() { b.keepRoster(b.life) })
	b.log.Info("relay is running", b.addresses()...)
}

func (b *Broker) addresses() []any {
	var out []any
	if b.tcp != nil {
		out = append(out, "tls", b.tcp.Addr().String())
	}
	if b.quic != nil {
		out = append(out, "quic", b.quic.LocalAddr().String())
	}
	if b.admin != nil {
		out = append(out, "admin", b.admin.Addr().String())
	}
	return out
}

// drain ends all sessions, then all subscribers, in order.
func (b *Broker) drain(stopIntake func()) {
	begin := time.Now()
	b.log.Info("relay is draining")
	b.mu.Lock()
	b.draining = true
	for _, k := range b.sockets {
		k.ln.Close()
	}
	b.mu.Unlock()
	stopIntake()
	waitUntil(begin.Add(sessionsEnd), b.sessions.Wait)
	b.end()
	for _, s := range b.everybody() {
		s.command(orderFinish, begin.Add(analystsEnd))
	}
	waitUntil(begin.Add(everyoneEnd), b.analysts.Wait)
	b.cut()
}

// waitUntil calls wait, and returns when that does or at the deadline. Whoever
// calls it sees to it that wait does return.
func waitUntil(deadline time.Time, wait func()) {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Until(deadline)):
	}
}
