// Package agent is the half of the agent registration that runs in agentk: every pod tells kas that it is there, at its start, every
// five minutes, and as soon as a lost connection is back.
package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"gitlab.com/agentk/agentk/api/agentregistrar"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/backoff"
)

const (
	// period is how often to register; kas forgets a pod after seven minutes.
	period = 5 * time.Minute
	// callTimeout bounds one call.
	callTimeout = 20 * time.Second
	// goodbye bounds the call at shutdown: kas forgets the pod by itself as well.
	goodbye = 3 * time.Second
)

var retryPolicy = backoff.Policy{
	Initial:    10 * time.Second,
	Max:        5 * time.Minute,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 10 * time.Minute,
}

// Config configures a Registrar. All fields are required unless they say otherwise.
type Config struct {
	Client agentregistrar.AgentRegistrarClient
	// Meta describes this pod; it is asked for every registration. Its context ends with the call.
	Meta func(ctx context.Context) *entity.AgentMeta
	// Reconnected gets a value whenever the connection to kas is there again, and holds one until it is received; nil means
	// it is not known, so that a registration may come as late as the back-off says.
	Reconnected <-chan struct{}
	Log         *zap.Logger
}

// Registrar keeps this pod registered.
type Registrar struct {
	cfg Config
	// podID stands for this process: random, positive, the same as long as it lives.
	podID int64

	// mu is held during calls, so that they reach kas in order. It guards left: this pod is about to stop.
	mu   sync.Mutex
	left bool
	last *entity.AgentMeta // what was told last; guarded by mu too
}

// New returns a Registrar.
func New(cfg Config) (*Registrar, error) {
	if cfg.Client == nil || cfg.Meta == nil || cfg.Log == nil {
		return nil, errors.New("agent registrar: client, meta and log are required")
	}
	return &Registrar{cfg: cfg, podID: 1 + rand.Int64N(1<<63-1)}, nil
}

// PodID is the id that this pod registers by.
func (r *Registrar) PodID() int64 { return r.podID }

// Leave tells kas that this pod is about to stop, and registers it no more. A kas of ours then sends it no further request.
func (r *Registrar) Leave(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	_, err := r.cfg.Client.Unregister(ctx, &agentregistrar.UnregisterRequest{AgentMeta: r.last, PodId: r.podID})
	return err
}

// Run registers until ctx ends, then unregisters, unless Leave has, and returns nil.
func (r *Registrar) Run(ctx context.Context) error {
	retry := backoff.New(retryPolicy)
	registered := false
	var meta *entity.AgentMeta
	for ctx.Err() == nil {
		meta = r.meta(ctx)
		pause := period
		err := r.register(ctx, meta)
		switch {
		case err == nil:
			registered = true
		case ctx.Err() == nil:
			pause = retry.Next()
			r.cfg.Log.Warn("Agent was not registered", zap.Duration("retry_in", pause), zap.Error(err))
		}
		r.wait(ctx, pause)
	}
	if registered {
		r.unregister(ctx, meta)
	}
	return nil
}

func (r *Registrar) meta(ctx context.Context) *entity.AgentMeta {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.cfg.Meta(ctx)
}

// register does not wait for a connection: Reconnected tells when there is one.
func (r *Registrar) register(ctx context.Context, meta *entity.AgentMeta) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return nil
	}
	r.last = meta
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case <-r.cfg.Reconnected: // an older connection than the one of this call
	default:
	}
	_, err := r.cfg.Client.Register(ctx, &agentregistrar.RegisterRequest{AgentMeta: meta, PodId: r.podID})
	return err
}

func (r *Registrar) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-r.cfg.Reconnected:
	}
}

// unregister runs after ctx has ended.
func (r *Registrar) unregister(ctx context.Context, meta *entity.AgentMeta) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	_, err := r.cfg.Client.Unregister(ctx, &agentregistrar.UnregisterRequest{AgentMeta: meta, PodId: r.podID})
	if err != nil && status.Code(err) != codes.Unimplemented { // servers before 17.1 do not know the call
		r.cfg.Log.Info("Agent was not unregistered", zap.Error(err))
	}
}
