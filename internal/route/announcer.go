package route

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	// linger is the default of AnnouncerConfig.Linger.
	linger = 5 * time.Second
	// writeLimit bounds one write.
	writeLimit = 5 * time.Second
	// batch is how many agents one write may announce.
	batch = 500
	// withdrawLimit bounds the withdrawal of everything at the stop, withdrawers how much of it is done at once.
	withdrawLimit = 5 * time.Second
	withdrawers   = 16
)

// announceRetry is how often a store that fails is written to again.
var announceRetry = backoff.Policy{Initial: 100 * time.Millisecond, Max: 5 * time.Second, Factor: 2, Jitter: 0.5, ResetAfter: 30 * time.Second}

// Locations is where replicas say which agents they hold; see package store.
type Locations interface {
	RefreshTunnels(ctx context.Context, url string, ttl time.Duration, agentIDs ...int64) error
	RemoveTunnel(ctx context.Context, agentID int64, url string) error
}

// AnnouncerConfig configures an Announcer. All fields are required unless they say otherwise.
type AnnouncerConfig struct {
	Locations Locations
	// URL is where the other replicas reach this one.
	URL string
	// TTL is how long an announcement is believed, Refresh how often it is repeated.
	TTL, Refresh time.Duration
	// StopAfter is how long announcements go on after the stop: as long as agents stay connected.
	StopAfter  time.Duration
	Log        *zap.Logger
	Registerer prometheus.Registerer
	// Linger is how long an agent without streams stays announced, since most are back in a moment. 0 is 5 s.
	Linger time.Duration
}

// Announcer tells the other replicas which agents this one holds. Nobody waits for it: what the store does not take is written
// again later, as things stand then.
type Announcer struct {
	cfg      AnnouncerConfig
	failures prometheus.Counter
	poke     chan struct{}

	mu sync.Mutex
	// mu guards the fields below. changed are agents to look at.
	changed map[int64]struct{}

	// Of Run's goroutine: the agents that are announced, and those without streams with the time when they are withdrawn.
	announced map[int64]struct{}
	leaving   map[int64]time.Time
	retry     *backoff.Backoff
}

// NewAnnouncer returns an Announcer. Its Changed is to be given to the registry whose agents it announces.
func NewAnnouncer(cfg AnnouncerConfig) (*Announcer, error) {
	if cfg.Locations == nil || cfg.URL == "" || cfg.TTL <= 0 || cfg.Refresh <= 0 || cfg.Log == nil || cfg.Registerer == nil {
		return nil, errors.New("route: Locations, URL, TTL, Refresh, Log and Registerer are required")
	}
	if cfg.Linger == 0 {
		cfg.Linger = linger
	}
	a := &Announcer{
		cfg: cfg, poke: make(chan struct{}, 1), changed: map[int64]struct{}{},
		announced: map[int64]struct{}{}, leaving: map[int64]time.Time{}, retry: backoff.New(announceRetry),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_tunnel_announcement_failures_total",
			Help: "Times the shared store did not take which agents this kas holds",
		}),
	}
	if err := cfg.Registerer.Register(a.failures); err != nil {
		return nil, err
	}
	return a, nil
}

// Changed says that an agent's streams have come or gone. It never waits.
func (a *Announcer) Changed(agentID int64) {
	a.mu.Lock()
	a.changed[agentID] = struct{}{}
	a.mu.Unlock()
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// everything is no agent's id: all are to be announced anew.
const everything = 0

// Run announces the agents of a registry until ctx has ended, and StopAfter has passed; then it withdraws them all.
func (a *Announcer) Run(ctx context.Context, registry *tunnel.Registry) error {
	writing := context.WithoutCancel(ctx)
	refresh := time.NewTicker(a.cfg.Refresh)
	defer refresh.Stop()
	again := time.NewTimer(a.cfg.Refresh)
	defer again.Stop()
	stop := ctx.Done()
	var stopped <-chan time.Time
	for {
		again.Reset(a.work(writing, registry))
		select {
		case <-a.poke:
		case <-again.C:
		case <-refresh.C:
			a.Changed(everything)
		case <-stop:
			stop, stopped = nil, time.After(a.cfg.StopAfter)
		case <-stopped:
			a.withdrawAll(writing)
			return nil
		}
	}
}

// work brings the store up to date, and says when to look again without being poked.
func (a *Announcer) work(ctx context.Context, registry *tunnel.Registry) time.Duration {
	a.mu.Lock()
	changed := a.changed
	a.changed = map[int64]struct{}{}
	a.mu.Unlock()
	now := time.Now()
	var come []int64
	if _, all := changed[everything]; all {
		delete(changed, everything)
		for id := range a.announced {
			changed[id] = struct{}{}
			delete(a.announced, id)
		}
	}
	for id := range changed {
		_, announced := a.announced[id]
		_, leaving := a.leaving[id]
		switch {
		case registry.Presence(id).Connected:
			delete(a.leaving, id)
			if !announced {
				come = append(come, id)
			}
		case !leaving:
			a.leaving[id] = now.Add(a.cfg.Linger)
		}
	}
	err := a.announce(ctx, come)
	return a.next(a.withdrawLeft(ctx, now), err)
}

// next says when to work again.
func (a *Announcer) next(left time.Duration, errs ...error) time.Duration {
	if errors.Join(errs...) == nil {
		return left
	}
	return min(left, a.retry.Next())
}

// announce writes agents that have come.
func (a *Announcer) announce(ctx context.Context, ids []int64) error {
	for part := range slices.Chunk(ids, batch) {
		limited, cancel := context.WithTimeout(ctx, writeLimit)
		err := a.cfg.Locations.RefreshTunnels(limited, a.cfg.URL, a.cfg.TTL, part...)
		cancel()
		if err != nil {
			a.failed(err, ids)
			return err
		}
		for _, id := range part {
			a.announced[id] = struct{}{}
		}
	}
	return nil
}

// failed makes sure that agents are looked at again.
func (a *Announcer) failed(err error, ids []int64) {
	a.failures.Inc()
	a.cfg.Log.Warn("The shared store does not take which agents are connected here; it is told again", zap.Int("agents", len(ids)), zap.Error(err))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if _, done := a.announced[id]; !done {
			a.changed[id] = struct{}{}
		}
	}
}

// withdrawLeft withdraws agents that have been without streams for long enough, and says when the next one will have been.
func (a *Announcer) withdrawLeft(ctx context.Context, now time.Time) time.Duration {
	wait := a.cfg.Refresh
	for id, until := range a.leaving {
		if left := until.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		limited, cancel := context.WithTimeout(ctx, writeLimit)
		err := a.cfg.Locations.RemoveTunnel(limited, id, a.cfg.URL)
		cancel()
		if err != nil {
			a.failures.Inc()
			a.cfg.Log.Warn("The shared store does not take that an agent has left; it is told again", zap.Int64(telemetry.AgentID, id), zap.Error(err))
			return min(wait, a.retry.Next())
		}
		delete(a.leaving, id)
		delete(a.announced, id)
	}
	return wait
}

// withdrawAll withdraws what is announced. What the store does not take in time expires by itself.
func (a *Announcer) withdrawAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, withdrawLimit)
	defer cancel()
	ids := make(chan int64)
	var workers sync.WaitGroup
	for range withdrawers {
		workers.Go(func() {
			for id := range ids {
				if err := a.cfg.Locations.RemoveTunnel(ctx, id, a.cfg.URL); err != nil && ctx.Err() == nil {
					a.cfg.Log.Warn("Agent stays announced until its entry expires", zap.Int64(telemetry.AgentID, id), zap.Error(err))
				}
			}
		})
	}
	for id := range a.announced {
		select {
		case ids <- id:
		case <-ctx.Done():
		}
	}
	close(ids)
	workers.Wait()
}
