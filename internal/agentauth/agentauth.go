// Package agentauth decides who may talk on the agent listener of kas, and for how long. It takes the agent token from every
// RPC, counts transport connections per token, finds out which agent a token stands for, ends the streams of a token that is
// revoked while they run, and ends long polls before their connection gets too old.
//
// State per connection travels as the AuthInfo of the connection's peer and not through a stats handler, which would cost an
// allocation per message.
package agentauth

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/internal/backend"
)

// Backend knows the agent tokens.
type Backend interface {
	// AgentByToken says which agent a token stands for. Errors are faults: Unauthenticated, PermissionDenied and NotFound are
	// answers, anything else is trouble.
	AgentByToken(ctx context.Context, token string) (backend.Agent, error)
	// Changed returns a channel that is closed at the next change of agents or tokens. nil: changes are not told.
	Changed() <-chan struct{}
}

// Limiter counts connections, for all replicas of kas together if it can.
type Limiter interface {
	// Allow counts one connection of key in the current window and says whether it is within limit. A refused one is not
	// counted.
	Allow(ctx context.Context, key string, limit uint32, window time.Duration) (bool, error)
}

// Config is what an Authenticator needs.
type Config struct {
	Backend Backend
	// Instant: the backend answers from memory, so that every RPC asks it, at once. Otherwise questions are bounded in number and shared.
	Instant bool
	// CacheTTL is how long an agent's answer is reused; 0 disables both caches.
	CacheTTL time.Duration
	// ErrorTTL is how long a refusal is reused.
	ErrorTTL time.Duration
	// RefreshPeriod is how often, at least, the backend is asked about every token that has sessions: a backend that tells no
	// changes is asked whether the token is still good, and sees that its agent is alive. 0: it is not asked for that.
	RefreshPeriod time.Duration
	// Gone is told that an agent has lost its last session because the backend refused its token, and has not come back with
	// another one. Calls do not overlap; they must not take long. nil: nobody is told.
	Gone func(ctx context.Context, agentID int64)
	// Limiter counts connections; nil counts in this process only.
	Limiter Limiter
	// Refusals tells other replicas which tokens the backend has refused; nil: each finds out by itself. It has to be nil where the
	// backend tells changes: what is shared does not hear of them.
	Refusals Refusals
	// ConnectionsPerMinute limits new connections per token; 0 means no limit.
	ConnectionsPerMinute uint32
	// MaxConnectionAge is the configured age A: long polls end at 30 % of it. 0 means never.
	MaxConnectionAge time.Duration
	// Validate checks a message received from an agent; its error is shown to the agent. nil accepts all.
	Validate func(proto.Message) error
	// Rand returns numbers in [0, 1), for jitter. Default math/rand.
	Rand       func() float64
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Authenticator holds the agents' sessions of one kas.
type Authenticator struct {
	cfg          Config
	rateExceeded prometheus.Counter
	panics       prometheus.Counter

	local  *localLimiter
	agents *resolver

	// changed is the backend's channel as of New, so that no change is missed until Run begins.
	changed <-chan struct{}
	// generation counts the changes seen; recheck asks the loop to look at the live tokens again.
	generation atomic.Uint64
	recheck    chan struct{}

	// mu guards live, the sessions of each token by the token's hash, and lost, when agents lost their last one to a refusal.
	mu   sync.Mutex
	live map[tokenKey]*liveToken
	lost map[int64]time.Time
}

// New checks cfg and registers the metrics.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Backend == nil {
		return nil, errors.New("agentauth: no backend")
	}
	if cfg.Refusals != nil && cfg.Backend.Changed() != nil {
		return nil, errors.New("agentauth: refusals of a backend that tells changes cannot be shared")
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	a := &Authenticator{
		cfg: cfg,
		rateExceeded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "agent_server_rate_exceeded_total",
			Help: "Connections of agents refused because their token opened too many in a minute",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_agent_server_panics_total",
			Help: "RPCs of agents that ended in a panic",
		}),
		local:   newLocalLimiter(),
		agents:  newResolver(cfg),
		changed: cfg.Backend.Changed(),
		recheck: make(chan struct{}, 1),
		live:    make(map[tokenKey]*liveToken),
		lost:    make(map[int64]time.Time),
	}
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{a.rateExceeded, a.panics} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

// Agent says which agent the RPC of ctx belongs to. Answers are cached and asked for once at a time per token.
func (a *Authenticator) Agent(ctx context.Context) (backend.Agent, error) {
	r := rpcOf(ctx)
	if r == nil {
		return backend.Agent{}, errNoBearer
	}
	generation := a.generation.Load()
	agent, err := a.agents.agent(ctx, r.token, r.key)
	if err != nil {
		return backend.Agent{}, err
	}
	r.agentID.Store(agent.ID)
	r.generation.Store(generation)
	return agent, nil
}

// Run watches for changes of the backend until ctx ends, and then waits for look-ups under way.
func (a *Authenticator) Run(ctx context.Context) error {
	defer a.agents.close()
	changed := a.changed
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	tick, stopTicks := a.refreshTicks()
	defer stopTicks()
	farewell := time.NewTimer(0)
	farewell.Stop()
	defer farewell.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			// The next change must not be missed while this one is worked on. Answers are forgotten before the generation
			// moves: whoever sees the new generation has a fresh answer.
			changed = a.cfg.Backend.Changed()
			a.agents.forget()
			a.generation.Add(1)
		case <-tick:
			a.refresh(ctx)
			a.awaitReturns(farewell)
			continue
		case <-farewell.C:
			a.sayGone(ctx)
			a.awaitReturns(farewell)
			continue
		case <-a.recheck:
		case <-again.C:
		}
		if !a.revalidate(ctx) {
			again.Reset(recheckAgain)
		}
		a.awaitReturns(farewell)
	}
}
