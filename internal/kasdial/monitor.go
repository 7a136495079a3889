package kasdial

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// Change is what happened to the connection.
type Change uint8

// Changes of the connection.
const (
	// Connected: RPCs can be sent.
	Connected Change = iota + 1
	// Disconnected: the connection was lost; the next attempt follows.
	Disconnected
	// AttemptFailed: there is still no connection.
	AttemptFailed
)

func (c Change) String() string {
	switch c {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case AttemptFailed:
		return "attempt failed"
	default:
		return "unknown"
	}
}

// Event tells a change of the connection.
type Event struct {
	Change Change
	// Planned: kas asked for a new connection, as it does from time to time; nothing is wrong.
	Planned bool
	// Closed: the other end of the connection closed it, as a reverse proxy does that is restarted.
	Closed bool
	// Reason is why there is no connection, nil if there is one. It carries no secret.
	Reason error
	// NextAttempt is about when the next attempt comes; zero when connected.
	NextAttempt time.Duration
}

const (
	// maxEvents bounds the events that wait for a slow OnState; the oldest states are then lost, never the connection.
	maxEvents = 64
	// settleTime is how long a connection that was closed by the other end may take to be replaced without being worth a warning. Middleboxes
	// close connections when they are restarted or reconfigured.
	settleTime = 3 * time.Second
	// freshData is how recently kas must have sent something for the end of a connection without an error to be its GOAWAY.
	// Otherwise gRPC gave up on a silent peer, after at least pingTimeout.
	freshData = pingTimeout / 2
)

// monitor knows how the connection stands.
type monitor struct {
	cfg      Config
	address  string
	host     string // of the address, with its port
	events   chan Event
	attempts *prometheus.CounterVec
	latency  prometheus.Histogram

	// limit is how many streams the newest connection takes at once; 0: as many as one likes.
	limit atomic.Uint32
	gate  *gate
	// trip is the shortest time, in ns, that a unary call has taken since the newest connection was opened; 0: there was none.
	trip atomic.Int64

	// mu guards the fields below, and with them the order of events.
	mu       sync.Mutex
	failures int // since the last connection
	current  *watchedConn
	up       bool // the channel has a connection
	refused  bool // and it was told that something else than kas answers there
}

func newMonitor(cfg Config, target *url.URL) *monitor {
	shown := url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path}
	return &monitor{
		cfg:     cfg,
		address: shown.String(),
		host:    target.Host,
		events:  make(chan Event, maxEvents),
		gate:    newGate(),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gitlab_kas_tunnel_connections_total",
			Help: "Attempts to connect to kas, by result",
		}, []string{"result"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "gitlab_kas_request_duration_seconds",
			Help:    "Duration of unary requests to kas",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
	}
}

func (m *monitor) collectors() []prometheus.Collector {
	for _, result := range []string{"success", "failure"} {
		m.attempts.WithLabelValues(result)
	}
	return []prometheus.Collector{m.attempts, m.latency}
}

// timeUnary measures the way to kas and back.
func (m *monitor) timeUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	start := time.Now()
	err := invoke(ctx, method, req, reply, cc, opts...)
	took := time.Since(start)
	m.latency.Observe(took.Seconds())
	if err == nil {
		m.tookTrip(took)
	}
	return err
}

// tookTrip keeps the shortest time.
func (m *monitor) tookTrip(took time.Duration) {
	for {
		least := m.trip.Load()
		if least != 0 && int64(took) >= least || m.trip.CompareAndSwap(least, max(int64(took), 1)) {
			return
		}
	}
}

// watch wraps a dialer: attempts are paced and failures told.
func (m *monitor) watch(p *pacer, dial dialFunc) dialFunc {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		if err := p.wait(ctx, addr); err != nil {
			return nil, err
		}
		conn, err := dial(ctx, addr)
		p.ended(addr, err)
		if err != nil {
			m.failed(err, isAnswer(err))
			return nil, err
		}
		return conn, nil
	}
}

// failed notes an attempt that led to no connection; paced: the dialer waits before the next one, too. Where kas has several addresses,
// one that does not work is no news while another does.
func (m *monitor) failed(err error, paced bool) {
	if errors.Is(err, context.Canceled) {
		return // Close, or a change of addresses
	}
	m.attempts.WithLabelValues("failure").Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	// gRPC's own delay, without its jitter.
	next := time.Duration(min(float64(baseDelay)*math.Pow(delayFactor, float64(m.failures)), float64(maxDelay)))
	if paced {
		next += afterAnswer
	}
	m.failures++
	if m.up {
		m.log().Debug("Cannot connect to one address of gRPC server", zap.String("kas_address", m.address), zap.NamedError("reason", err))
		return
	}
	m.tell(Event{Change: AttemptFailed, Reason: err, NextAttempt: next})
}

// established notes a connection whose peer speaks HTTP/2.
func (m *monitor) established(c *watchedConn) {
	m.attempts.WithLabelValues("success").Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = 0
	m.trip.Store(0)
	m.current = c
	if m.cfg.OnConnection != nil {
		m.cfg.OnConnection(c.LocalAddr().String())
	}
}

// follow turns the channel's states into events and keeps the channel connected.
func (m *monitor) follow(ctx context.Context, conn *grpc.ClientConn) {
	var reported *watchedConn // the connection last told as connected
	for {
		state := conn.GetState()
		m.mu.Lock()
		if state == connectivity.Ready {
			if m.up && m.current != reported && reported != nil && reported.gone() {
				// It was lost and replaced between two looks.
				m.down(reported)
			}
			if !m.up && !m.refused {
				m.tell(Event{Change: Connected})
			}
			m.up, reported = true, m.current
		} else if m.up {
			m.down(reported)
		}
		m.mu.Unlock()
		if state == connectivity.Idle {
			conn.Connect()
		}
		if state == connectivity.Shutdown || !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// down tells that the connection was lost, which is no news where it led to something else than kas. mu is held.
func (m *monitor) down(c *watchedConn) {
	m.up = false
	if !m.refused {
		m.tell(m.lost(c))
	}
}

// lost says why a connection that was up is no longer used.
func (m *monitor) lost(c *watchedConn) Event {
	e := Event{Change: Disconnected, NextAttempt: maxFirstRetry}
	silent, err := c.end()
	switch {
	case err == nil && silent < freshData:
		e.Planned, e.Reason = true, errors.New("kas asked for a new connection")
	case err == nil:
		e.Reason = errors.New("kas does not answer any more")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Closed, e.Reason = true, errors.New("kas, or something on the way to it, closed the connection")
	default:
		e.Closed, e.Reason = errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE), err
	}
	return e
}

// tell queues an event; if nobody takes them, it is dropped.
func (m *monitor) tell(e Event) {
	select {
	case m.events <- e:
	default:
	}
}

// report writes the log and calls OnState.
func (m *monitor) report(ctx context.Context) {
	settled := time.NewTimer(0)
	defer settled.Stop()
	<-settled.C
	var held *Event // the end of a connection, until it is known whether it matters
	release := func(replaced bool) {
		if held != nil {
			m.write(*held, replaced)
		}
		held = nil
		settled.Stop()
	}
	planned := false
	for {
		var e Event
		select {
		case e = <-m.events:
		case <-settled.C:
			release(false)
			continue
		case <-ctx.Done():
			release(true)
			return
		}
		release(e.Change == Connected)
		if e.Closed {
			held = &e
			settled.Reset(settleTime)
		} else {
			m.write(e, planned)
		}
		planned = e.Planned
		if m.cfg.OnState != nil {
			m.cfg.OnState(e)
		}
	}
}

// write logs an event. quiet: it belongs to a change of connections in which nothing is wrong.
func (m *monitor) write(e Event, quiet bool) {
	fields := []zap.Field{zap.String("kas_address", m.address)}
	if e.Reason != nil {
		fields = append(fields, zap.NamedError("reason", e.Reason), zap.Duration("next_attempt_in", e.NextAttempt))
	}
	switch {
	case e.Change == Connected && quiet, e.Planned:
		m.log().Debug(headline(e), fields...)
	case e.Change == Connected, e.Closed && quiet:
		m.log().Info(headline(e), fields...)
	default:
		m.log().Warn(headline(e), fields...)
	}
}

func (m *monitor) log() *zap.Logger {
	if m.cfg.Log == nil {
		return zap.NewNop()
	}
	return m.cfg.Log
}

// headline is the log message of an event.
func headline(e Event) string {
	switch {
	case e.Change == Connected:
		return "Connected to gRPC server"
	case e.Planned:
		return "Changing the connection to gRPC server"
	case e.Change == Disconnected:
		return "Disconnected from gRPC server"
	default:
		return "Cannot connect to gRPC server"
	}
}
