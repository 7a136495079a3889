package gitaly

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const (
	// limitWait is the longest time a call waits for its turn.
	limitWait = time.Minute

	globalName   = "gitaly_client_global"
	serverPrefix = "gitaly_client_"
	refillUnit   = "{refill/s}"
)

var (
	defaultGlobal    = RateLimit{PerSecond: 30, Burst: 70}
	defaultPerServer = RateLimit{PerSecond: 15, Burst: 40}
)

// limits makes calls wait, so that no burst of agents becomes one of git processes.
type limits struct {
	global    *bucket
	perServer RateLimit
	blocked   *prometheus.HistogramVec
	refill    *prometheus.GaugeVec

	// mu guards servers, by address.
	mu      sync.Mutex
	servers map[string]*bucket
}

type bucket struct {
	name string
	*rate.Limiter
}

func newLimits(global, perServer RateLimit, registerer prometheus.Registerer) (*limits, error) {
	global, err := global.or(defaultGlobal)
	if err != nil {
		return nil, fmt.Errorf("gitaly: global rate limit: %w", err)
	}
	perServer, err = perServer.or(defaultPerServer)
	if err != nil {
		return nil, fmt.Errorf("gitaly: rate limit per server: %w", err)
	}
	l := &limits{perServer: perServer, servers: map[string]*bucket{}}
	if err := l.register(registerer); err != nil {
		return nil, err
	}
	l.global = l.newBucket(globalName, global)
	return l, nil
}

func (r RateLimit) or(otherwise RateLimit) (RateLimit, error) {
	if r == (RateLimit{}) {
		return otherwise, nil
	}
	if r.PerSecond <= 0 || r.Burst <= 0 {
		return RateLimit{}, errors.New("calls per second and burst must be positive")
	}
	return r, nil
}

// register shares the two metrics with the other limiters of the process.
func (l *limits) register(registerer prometheus.Registerer) error {
	l.blocked = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "limiter_block_duration_milliseconds",
		Help:    "Time that calls waited for their turn, by limiter and whether they got it",
		Buckets: []float64{1, 4, 16, 64, 256, 1024, 4096, 16384},
	}, []string{"limiter_name", "allowed"})
	l.refill = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "limiter_limit",
		Help: "How much a limiter lets through, by limiter and unit",
	}, []string{"limiter_name", "unit"})
	if registerer == nil {
		return nil
	}
	var known prometheus.AlreadyRegisteredError
	err := registerer.Register(l.blocked)
	if errors.As(err, &known) {
		l.blocked, _ = known.ExistingCollector.(*prometheus.HistogramVec)
	} else if err != nil {
		return err
	}
	err = registerer.Register(l.refill)
	if errors.As(err, &known) {
		l.refill, _ = known.ExistingCollector.(*prometheus.GaugeVec)
	} else if err != nil {
		return err
	}
	if l.blocked == nil || l.refill == nil {
		return errors.New("gitaly: the metrics of limiters are registered with another type")
	}
	return nil
}

func (l *limits) newBucket(name string, r RateLimit) *bucket {
	l.refill.WithLabelValues(name, refillUnit).Set(r.PerSecond)
	return &bucket{name: name, Limiter: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)}
}

// wait returns when a call to an address may begin, or an error if that is too far away or ctx ends first. A call that waits for
// its server does not yet count for all servers.
func (l *limits) wait(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, limitWait)
	defer cancel()
	if err := l.waitFor(ctx, l.server(address)); err != nil {
		return err
	}
	return l.waitFor(ctx, l.global)
}

func (l *limits) waitFor(ctx context.Context, b *bucket) error {
	begin := time.Now()
	err := b.Wait(ctx)
	waited := float64(time.Since(begin)) / float64(time.Millisecond)
	l.blocked.WithLabelValues(b.name, strconv.FormatBool(err == nil)).Observe(waited)
	return err
}

func (l *limits) server(address string) *bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.servers[address]
	if b == nil {
		b = l.newBucket(serverPrefix+address, l.perServer)
		l.servers[address] = b
	}
	return b
}

// keep drops the buckets of addresses that are not used and whose bucket is full again.
func (l *limits) keep(used func(address string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for address, b := range l.servers {
		if !used(address) && b.Tokens() >= float64(b.Burst()) {
			l.forget(b)
			delete(l.servers, address)
		}
	}
}

func (l *limits) forget(b *bucket) {
	mine := prometheus.Labels{"limiter_name": b.name}
	l.refill.DeletePartialMatch(mine)
	l.blocked.DeletePartialMatch(mine)
}

// close drops the metrics.
func (l *limits) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.servers {
		l.forget(b)
	}
	l.forget(l.global)
}
