package tunnel

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
)

// Handler serves one call that arrived through the tunnel. A returned error becomes the call's gRPC status. ctx ends with the call,
// which is noticed in Recv, and everywhere else once the handler has called Ahead.
type Handler func(ctx context.Context, meta metadata.MD, s httpgrpc.ResponderStream) error

const (
	// keepIdle is how long ago a surplus slot must have been used before it may stop.
	keepIdle = time.Minute
	// reserved is how many streams of a connection that takes only so many are left to the other calls of the agent, which would
	// otherwise wait for the end of some watch.
	reserved = 8
	// DefaultMaxStreams bounds the streams of one agent process: parked, and in use by requests, watches and sessions.
	DefaultMaxStreams = 5000
)

// PoolConfig configures a Pool.
type PoolConfig struct {
	// Client is the agent's one channel to kas.
	Client grpc.ClientConnInterface
	// Services are the handlers by service and method.
	Services map[string]map[string]Handler
	// Extensions are announced beside them, as "service/method".
	Extensions []string
	// MaxStreams bounds the streams, parked and in use. 0: DefaultMaxStreams.
	MaxStreams int
	// Limit says how many streams the connection takes at once, 0 for any number; reverse proxies have such limits. nil: any number.
	Limit func() int
	// RoundTrip is a time that kas has answered within on the newest connection, 0 if there is none. nil: that is not known.
	RoundTrip func() time.Duration
	// Pod is the id by which this pod registers at kas. 0: it does not.
	Pod int64
	// Leave tells kas that this pod is about to stop, so that kas ends the parked streams. It is called when Run's context ends,
	// and again while that brings results: where streams end at several kas, each call may reach another one. nil: kas is not
	// told, parked streams are just ended, and a call that kas sends down one in that moment is lost.
	Leave func(ctx context.Context) error
	// Connected gets the local address of each new connection to kas; only the newest one waits. The one before may live on for a
	// while, for what runs on it; streams are then parked on the new one before those of the old one end. nil: that is not known.
	Connected <-chan string
	// DrainTimeout is how long calls in flight may go on after Run's context has ended.
	DrainTimeout time.Duration
	Log          *zap.Logger
	Registerer   prometheus.Registerer
}

// Pool keeps streams parked at kas and serves the calls that come down them.
type Pool struct {
	cfg        PoolConfig
	descriptor []byte
	handlers   map[string]Handler // by "/service/method"
	wg         sync.WaitGroup

	// mu guards the numbers of slots. A connecting slot counts as idle.
	mu      sync.Mutex
	idle    int
	active  int
	stopped bool
	// newest is the local address of the newest connection, empty if that is not known. parked counts the idle streams that are
	// open by that of their own, but for those that have served: again counts these.
	newest string
	parked map[string]int
	again  int
	// trip is the shortest time in which kas has answered on the newest connection; 0: that is not known yet.
	trip time.Duration
	// unparked is closed when the last idle slot has ended after stopped was set.
	unparked chan struct{}
}

// NewPool checks the configuration and returns a pool that is not running yet.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = DefaultMaxStreams
	}
	if cfg.MaxStreams < minIdle {
		return nil, fmt.Errorf("tunnel: the maximum of streams must be at least %d, got %d", minIdle, cfg.MaxStreams)
	}
	descriptor, err := announce(cfg.Services, cfg.Extensions, cfg.MaxStreams, cfg.Pod)
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	p := &Pool{cfg: cfg, descriptor: descriptor, handlers: map[string]Handler{}, parked: map[string]int{}, unparked: make(chan struct{})}
	for service, methods := range cfg.Services {
		for method, h := range methods {
			p.handlers["/"+service+"/"+method] = h
		}
	}
	cfg.Registerer.MustRegister(
		p.gauge("idle", func() int { return p.idle }),
		p.gauge("busy", func() int { return p.active }))
	return p, nil
}

func (p *Pool) gauge(state string, read func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "agentk_tunnels", Help: "Reverse tunnel streams of this agent", ConstLabels: prometheus.Labels{"state": state},
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(read())
	})
}

// open starts n more slots as far as the maximum allows. mu is held.
func (p *Pool) open(l lives, n int) {
	if p.stopped {
		return
	}
	for range min(n, p.room()-p.idle-p.active) {
		p.idle++
		s := &slot{pool: p, backoff: backoff.New(retry)}
		p.wg.Go(func() { s.run(&l) })
	}
}

// room is how many streams there may be now.
func (p *Pool) room() int {
	if p.cfg.Limit == nil {
		return p.cfg.MaxStreams
	}
	if limit := p.cfg.Limit(); limit > 0 {
		return min(p.cfg.MaxStreams, max(limit-reserved, minIdle))
	}
	return p.cfg.MaxStreams
}

// unused marks one slot as idle again.
func (p *Pool) unused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.idle++
}

// surplus says whether an idle slot that was last active then may stop, and counts it out if so.
func (p *Pool) surplus(lastActive, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fresh() <= minIdle || now.Sub(lastActive) <= keepIdle {
		return false
	}
	p.leftIdle()
	return true
}

// gone counts out an idle slot that stops for another reason.
func (p *Pool) gone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leftIdle()
}

// leftIdle counts out an idle slot. mu is held.
func (p *Pool) leftIdle() {
	p.idle--
	p.checkUnparked()
}

func (p *Pool) checkUnparked() {
	if !p.stopped || p.idle > 0 {
		return
	}
	select {
	case <-p.unparked:
	default:
		close(p.unparked)
	}
}
