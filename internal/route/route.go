// Package route finds the way from an agent id to a stream of that agent: a stream parked at this kas is handed over as it is.
// When none is parked it decides whether waiting makes sense, and says what is known when it does not.
package route

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	// waitLimit is how long a request waits for a stream.
	waitLimit = 20 * time.Second
	// recently: an agent that was here that long ago, or a kas that young, is worth waiting for.
	recently = time.Minute
	// notFound is the stock server's wording, which people and tools look for.
	notFound = "Agent connection not found. Is agent up to date and connected?"
)

// Request asks for a stream.
type Request struct {
	AgentID int64
	// Service and Method name what is called.
	Service, Method string
	// Require lists extensions ("service/method") that the agent must have announced.
	Require []string
	// Meta is sent to the agent. It must hold no credential.
	Meta metadata.MD
}

// Call is a stream that the call's method was sent on.
type Call interface {
	httpgrpc.RequesterStream
	// Finish gives the stream back; it is called exactly once, after Send and Recv have returned. done: the exchange ended in
	// order. Otherwise the agent's side ends with Canceled at once.
	Finish(done bool)
}

// Config configures a Router.
type Config struct {
	Registry *tunnel.Registry
	// LastSeen says when an agent last registered with any kas; false: not known.
	LastSeen func(ctx context.Context, agentID int64) (time.Time, bool, error)
	// Started is when this kas came up.
	Started    time.Time
	Registerer prometheus.Registerer
}

// Router opens calls to agents.
type Router struct {
	cfg      Config
	duration *prometheus.HistogramVec
	timeouts prometheus.Counter
}

// New returns a Router.
func New(cfg Config) *Router {
	r := &Router{
		cfg: cfg,
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "k8s_api_proxy_routing_duration_seconds",
			Help:    "Time it took to find a stream of the agent",
			Buckets: []float64{0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384},
		}, []string{"status"}),
		timeouts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "k8s_api_proxy_routing_timeout_total",
			Help: "Requests for which no stream of the agent was found",
		}),
	}
	cfg.Registerer.MustRegister(r.duration, r.timeouts)
	return r
}

// Open finds a stream and sends the call's method on it. When ctx ends, Send and Recv of the call fail and the agent's side
// ends with Canceled. Errors are faults: InvalidArgument (the agent lacks a required extension), DeadlineExceeded (no stream),
// ResourceExhausted (the agent is at its maximum), Unavailable (kas stops), Canceled.
func (r *Router) Open(ctx context.Context, q Request) (Call, error) {
	started := time.Now()
	wanted := append([]string{q.Service + "/" + q.Method}, q.Require...)
	if announced, connected := r.cfg.Registry.Announces(q.AgentID, wanted...); connected && !announced {
		return nil, fault.New(fault.InvalidArgument, fault.Agent, "agent does not support what this request needs: %v", wanted)
	}
	method := "/" + q.Service + "/" + q.Method
	// Each turn uses a stream up: of a connection that was cut, all that were parked may turn out to be dead.
	for time.Since(started) < waitLimit {
		t, err := r.find(ctx, q.AgentID, wanted)
		if err != nil {
			r.duration.WithLabelValues("aborted").Observe(time.Since(started).Seconds())
			return nil, err
		}
		if err := t.Start(method, q.Meta); err != nil {
			t.Finish(false) // dead before it was asked anything: another one will do
			continue
		}
		r.duration.WithLabelValues("success").Observe(time.Since(started).Seconds())
		stop := context.AfterFunc(ctx, func() {
			t.Abort(fault.Wrap(fault.Canceled, fault.Client, context.Cause(ctx), "the client ended the request"))
		})
		return &call{Tunnel: t, stop: stop}, nil
	}
	r.duration.WithLabelValues("aborted").Observe(time.Since(started).Seconds())
	return nil, fault.New(fault.Unavailable, fault.Agent, "Find tunnel failed: every stream of the agent broke before it could be used")
}

// find takes a parked stream, or waits for one when that makes sense.
func (r *Router) find(ctx context.Context, agentID int64, wanted []string) (*tunnel.Tunnel, error) {
	if t := r.cfg.Registry.TryFind(agentID, wanted...); t != nil {
		return t, nil
	}
	presence := r.cfg.Registry.Presence(agentID)
	seen := r.lastSeen(ctx, agentID, presence)
	if !presence.Connected && time.Since(seen) > recently && time.Since(r.cfg.Started) > recently {
		return nil, r.absent(seen)
	}
	waitCtx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	t, err := r.cfg.Registry.Find(waitCtx, agentID, wanted...)
	switch {
	case err == nil:
		return t, nil
	case ctx.Err() != nil:
		return nil, fault.Wrap(fault.KindOf(ctx.Err()), fault.Client, ctx.Err(), "FindTunnel request aborted")
	case !errors.Is(err, context.DeadlineExceeded):
		return nil, err
	case r.cfg.Registry.Presence(agentID).Connected:
		return nil, &fault.Error{
			Kind: fault.ResourceExhausted, Hop: fault.Agent, RetryAfter: time.Second,
			Msg: fmt.Sprintf("agent is connected but had no free stream for %s", waitLimit),
		}
	}
	return nil, r.absent(seen)
}

func (r *Router) lastSeen(ctx context.Context, agentID int64, p tunnel.Presence) time.Time {
	seen := p.LastSeen
	if r.cfg.LastSeen != nil {
		if registered, ok, err := r.cfg.LastSeen(ctx, agentID); err == nil && ok && registered.After(seen) {
			seen = registered
		}
	}
	return seen
}

// absent says that the agent is not connected, and since when.
func (r *Router) absent(seen time.Time) error {
	r.timeouts.Inc()
	when := "It was not seen since this kas started at " + r.cfg.Started.UTC().Format(time.RFC3339) + "."
	if !seen.IsZero() {
		when = fmt.Sprintf("It was last seen at %s, %s ago.", seen.UTC().Format(time.RFC3339), time.Since(seen).Round(time.Second))
	}
	return fault.New(fault.DeadlineExceeded, fault.Agent, "%s %s", notFound, when)
}

// call ties a stream to the context it was asked for with.
type call struct {
	*tunnel.Tunnel
	stop func() bool
}

func (c *call) Finish(done bool) {
	c.stop()
	c.Tunnel.Finish(done)
}
