package gitaly

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	// Deadlines of one call, beside what the caller's context allows.
	pollTimeout   = 30 * time.Second
	lookupTimeout = 10 * time.Second
	fileTimeout   = 30 * time.Second
	listTimeout   = time.Minute

	// reapPeriod is how often what nobody uses any more is dropped.
	reapPeriod = time.Minute
)

// RateLimit is a token bucket. The zero value stands for the default.
type RateLimit struct {
	// PerSecond is how many calls may begin per second on average.
	PerSecond float64
	// Burst is how many may begin at once after a pause.
	Burst int
}

// Config configures a Client. The zero value of every field but Log has a meaning.
type Config struct {
	// Global limits the calls to all servers together; default 30 per second, burst 70.
	Global RateLimit
	// PerServer limits the calls to each address; default 15 per second, burst 40.
	PerServer RateLimit
	// Roots verify servers with TLS; nil stands for the system's.
	Roots *x509.CertPool
	// DialOptions are added to those of every connection, for instrumentation.
	DialOptions []grpc.DialOption
	Log         *zap.Logger
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Client reads repositories from any number of Gitaly servers. It is safe for concurrent use.
type Client struct {
	now     func() time.Time
	limits  *limits
	pool    *pool
	memory  *memory
	alerts  *alerts
	adverts *flights[*advertisement]
	points  *flights[answer]

	// stop ends base, the context of all that the client does on its own; work waits for it.
	stop context.CancelFunc
	work sync.WaitGroup
}

// New returns a client. Close it after its last call has returned.
func New(cfg Config) (*Client, error) {
	return newClient(cfg, time.Now)
}

// newClient is New with a clock.
func newClient(cfg Config, now func() time.Time) (*Client, error) {
	if cfg.Log == nil {
		return nil, errors.New("gitaly: the log is required")
	}
	limits, err := newLimits(cfg.Global, cfg.PerServer, cfg.Registerer)
	if err != nil {
		return nil, err
	}
	roots, err := rootsOr(cfg.Roots)
	if err != nil {
		return nil, err
	}
	dialer := &dialer{roots: roots, now: now, extra: cfg.DialOptions}
	base, stop := context.WithCancel(context.Background())
	c := &Client{
		now:     now,
		limits:  limits,
		pool:    newPool(dialer.dial, now),
		memory:  newMemory(now),
		alerts:  newAlerts(cfg.Log, now),
		adverts: newFlights[*advertisement](base),
		points:  newFlights[answer](base),
		stop:    stop,
	}
	c.work.Go(func() { c.reapAll(base) })
	return c, nil
}

// Close ends what still runs and closes all connections. Calls that still run fail.
func (c *Client) Close() {
	c.stop()
	c.adverts.wait()
	c.points.wait()
	c.work.Wait()
	c.pool.close()
	c.limits.close()
}

func (c *Client) reapAll(ctx context.Context) {
	ticker := time.NewTicker(reapPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.reap()
		case <-ctx.Done():
			return
		}
	}
}

// reap drops what has not been used for long: connections, the buckets of their servers, and what is remembered of repositories.
func (c *Client) reap() {
	c.pool.reap()
	c.limits.keep(c.pool.inUse)
	c.memory.reap()
	c.alerts.reap()
}
