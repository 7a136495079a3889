package agentk

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/kasdial"
)

const (
	// heartbeat is how often the log tells how the connection stands.
	heartbeat = 5 * time.Minute
	// downTooLong is how long a connection may be lost before the agent counts as not ready.
	downTooLong = time.Minute
)

// link knows how the connection to kas stands, for the log, the probes and the metrics.
type link struct {
	address string
	log     *zap.Logger
	gauge   prometheus.Gauge
	// reconnected gets a value when a connection that was lost is there again.
	reconnected chan struct{}

	// mu guards all below.
	mu sync.Mutex
	up bool
	// since is when up last changed; before the first connection, when the agent started.
	since  time.Time
	ever   bool
	reason error
}

func newLink(address string, log *zap.Logger, reg prometheus.Registerer) *link {
	l := &link{
		address: address, log: log, reconnected: make(chan struct{}, 1), since: time.Now(),
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{Name: "agentk_connected", Help: "1 while the agent is connected to kas"}),
	}
	if u, err := url.Parse(address); err == nil {
		l.address = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // a query may hold anything
	}
	reg.MustRegister(l.gauge)
	return l
}

// changed is told every change by kasdial, which also writes the log.
func (l *link) changed(e kasdial.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	up := e.Change == kasdial.Connected
	if !up {
		l.reason = e.Reason
	}
	if up && l.ever && !l.up {
		select {
		case l.reconnected <- struct{}{}:
		default:
		}
	}
	if up != l.up {
		l.since = time.Now()
	}
	l.up, l.ever = up, l.ever || up
	l.gauge.Set(0)
	if up {
		l.gauge.Set(1)
	}
}

// ready is the readiness probe: connected, or disconnected for a moment only.
func (l *link) ready(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.up, l.ever && time.Since(l.since) < downTooLong:
		return nil
	case l.reason != nil:
		return errors.New("not connected to kas: " + l.reason.Error())
	default:
		return errors.New("not connected to kas yet")
	}
}

// run writes the heartbeat.
func (l *link) run(ctx context.Context) error {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			l.beat()
		}
	}
}

func (l *link) beat() {
	l.mu.Lock()
	up, lasts, reason := l.up, time.Since(l.since).Round(time.Second), l.reason
	l.mu.Unlock()
	if up {
		l.log.Info("Connected to kas", zap.String("kas_address", l.address), zap.Duration("for", lasts))
		return
	}
	l.log.Warn("Not connected to kas", zap.String("kas_address", l.address), zap.Duration("for", lasts), zap.NamedError("reason", reason))
}
