// Package route finds the way from an agent id to a stream of that agent: a stream parked at this kas is handed over as it is;
// otherwise the replicas that hold one are asked, all at once, and the first that has a stream free gets the request. When there
// is none it decides whether waiting makes sense, and says what is known when it does not.
//
// Announcer is the other half: it tells the other replicas which agents this one holds.
package route

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/internal/fault"
	"gitlab.com/agentk/agentk/internal/httpgrpc"
	"gitlab.com/agentk/agentk/internal/peer"
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

// toPeer is the request as another kas gets it.
func (q Request) toPeer() peer.Request {
	return peer.Request{AgentID: q.AgentID, Service: q.Service, Method: q.Method, Require: q.Require, Meta: q.Meta}
}

// Call is a stream that the call's method was sent on. Towards another kas the method, and what follows, may be held until CloseSend or
// Recv is called.
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
	// Others are the other replicas; nil: this kas runs single.
	Others *Others
}

// Others is how other replicas are found and reached.
type Others struct {
	// OwnURL is the location of this kas, which is never asked.
	OwnURL string
	// Watch sends the locations of an agent at once and whenever they change, until ctx ends; see package store.
	Watch func(ctx context.Context, agentID int64) <-chan []string
	Peers *peer.Pool
	// Trouble says what is wrong with the store that Watch asks; nil: nothing. It must not wait. The field may be nil.
	Trouble func() error
}

// Router opens calls to agents.
type Router struct {
	cfg      Config
	watches  *watches // nil: this kas runs single
	duration *prometheus.HistogramVec
	// success and aborted are of duration.
	success, aborted prometheus.Observer
	timeouts         prometheus.Counter
	hops             *prometheus.CounterVec
}

// New returns a Router. With Others, Run must be running.
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
		hops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kas_hops_total",
			Help: "Times another kas was asked for a stream of an agent, by what came of it",
		}, []string{"outcome"}),
	}
	r.success, r.aborted = r.duration.WithLabelValues("success"), r.duration.WithLabelValues("aborted")
	cfg.Registerer.MustRegister(r.duration, r.timeouts, r.hops)
	if o := cfg.Others; o != nil {
		lastSeen := cfg.LastSeen
		if lastSeen == nil {
			lastSeen = func(context.Context, int64) (time.Time, bool, error) { return time.Time{}, false, nil }
		}
		r.watches = newWatches(o.OwnURL, o.Watch, lastSeen)
	}
	return r
}

// Run follows where agents are, until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	if r.watches != nil {
		r.watches.run(ctx)
	}
	return nil
}

// candidate is a stream that nothing was sent on.
type candidate interface {
	// open sends the method. An error means that the stream is dead, and has been given back.
	open(ctx context.Context, q Request) (Call, error)
}

// Open finds a stream and sends the call's method on it. When ctx ends, Send and Recv of the call fail and the agent's side
// ends with Canceled. Errors are faults: InvalidArgument (the agent lacks a required extension), DeadlineExceeded (no stream),
// ResourceExhausted (the agent is at its maximum), Unavailable (kas stops, or the other kas cannot be reached), Canceled. A Call
// with a method Unopened may find out late that there is no stream, with the same errors.
func (r *Router) Open(ctx context.Context, q Request) (Call, error) {
	return r.open(ctx, q, r.watches != nil)
}

// open is Open that asks before it sends, unless it may be eager.
func (r *Router) open(ctx context.Context, q Request, eager bool) (Call, error) {
	started := time.Now()
	wanted := append([]string{q.Service + "/" + q.Method}, q.Require...)
	// Each turn uses a stream up: of a connection that was cut, all that were parked may turn out to be dead.
	for time.Since(started) < waitLimit {
		found, err := r.find(ctx, q, wanted, started, eager)
		if err != nil {
			r.aborted.Observe(time.Since(started).Seconds())
			return nil, err
		}
		call, err := found.open(ctx, q)
		if err != nil {
			continue // dead before it was asked anything: another one will do
		}
		r.success.Observe(time.Since(started).Seconds())
		return call, nil
	}
	r.aborted.Observe(time.Since(started).Seconds())
	return nil, fault.New(fault.Unavailable, fault.Agent, "Find tunnel failed: every stream of the agent broke before it could be used")
}

// find takes a stream parked here, or looks elsewhere, or waits for one when that makes sense.
func (r *Router) find(ctx context.Context, q Request, wanted []string, started time.Time, eager bool) (candidate, error) {
	if t := r.cfg.Registry.TryFind(q.AgentID, wanted...); t != nil {
		return ownStream{t}, nil
	}
	if eager {
		if found := r.eager(ctx, q); found != nil {
			return found, nil
		}
	}
	if r.watches != nil {
		return r.search(ctx, q, wanted, started)
	}
	if announced, connected := r.cfg.Registry.Announces(q.AgentID, wanted...); connected && !announced {
		return nil, tunnel.Unsupported(wanted)
	}
	presence := r.cfg.Registry.Presence(q.AgentID)
	seen := r.lastSeen(ctx, q.AgentID, presence)
	if !presence.Connected && r.longGone(seen) {
		return nil, r.absent(seen)
	}
	waitCtx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	t, err := r.cfg.Registry.Find(waitCtx, q.AgentID, wanted...)
	switch {
	case err == nil:
		return ownStream{t}, nil
	case ctx.Err() != nil:
		return nil, gaveUp(ctx)
	case !errors.Is(err, context.DeadlineExceeded):
		return nil, err
	case r.cfg.Registry.Presence(q.AgentID).Connected:
		return nil, noneFree()
	}
	return nil, r.absent(seen)
}

func gaveUp(ctx context.Context) error {
	return fault.Wrap(fault.KindOf(ctx.Err()), fault.Client, ctx.Err(), "FindTunnel request aborted")
}

func noneFree() error {
	return &fault.Error{
		Kind: fault.ResourceExhausted, Hop: fault.Agent, RetryAfter: time.Second,
		Msg: fmt.Sprintf("agent is connected but had no free stream for %s", waitLimit),
	}
}

// longGone says that waiting for the agent makes no sense.
func (r *Router) longGone(seen time.Time) bool {
	return time.Since(seen) > recently && time.Since(r.cfg.Started) > recently
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

// absent says that the agent is not connected, and since when. more is what else is known.
func (r *Router) absent(seen time.Time, more ...string) error {
	r.timeouts.Inc()
	when := "It was not seen since this kas started at " + r.cfg.Started.UTC().Format(time.RFC3339) + "."
	if !seen.IsZero() {
		when = fmt.Sprintf("It was last seen at %s, %s ago.", seen.UTC().Format(time.RFC3339), time.Since(seen).Round(time.Second))
	}
	return fault.New(fault.DeadlineExceeded, fault.Agent, "%s", strings.Join(append([]string{notFound, when}, more...), " "))
}

// ownStream is a stream of an agent that is connected to this kas.
type ownStream struct{ t *tunnel.Tunnel }

func (o ownStream) open(ctx context.Context, q Request) (Call, error) {
	if err := o.t.Start("/"+q.Service+"/"+q.Method, q.Meta); err != nil {
		o.t.Finish(false)
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() {
		o.t.Abort(fault.Wrap(fault.Canceled, fault.Client, context.Cause(ctx), "the client ended the request"))
	})
	return &call{Tunnel: o.t, stop: stop}, nil
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

// otherStream is a stream of an agent that is connected to another kas.
type otherStream struct{ s *peer.Stream }

func (o otherStream) open(context.Context, Request) (Call, error) {
	if err := o.s.Start(); err != nil {
		o.s.Finish(false)
		return nil, err
	}
	return o.s, nil
}
