package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/store"
)

const (
	// defaultProbeEvery is how often Redis is asked how it does while all is well, and probeInTrouble while it is not; plus half of
	// it at random.
	defaultProbeEvery = 5 * time.Second
	probeInTrouble    = 500 * time.Millisecond
	// epochTTL is how long the epoch stays when nobody asks for it.
	epochTTL = time.Minute
)

// epochScript takes the epoch or sets one. It always writes: a full Redis refuses it.
var epochScript = redis.NewScript(`
local epoch = redis.call('GET', KEYS[1])
if not epoch then epoch = ARGV[1] end
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[2])
return epoch`)

var errClosed = errors.New("the store is closed")

// health is what is known about Redis.
type health struct {
	log     *zap.Logger
	metrics *metrics
	// healed has a value when what this process has in Redis must be written anew.
	healed chan struct{}
	// wake makes the prober ask at once.
	wake chan struct{}

	// mu guards all below.
	mu       sync.Mutex
	once     bool  // Redis has answered once
	down     error // why calls are refused; nil while they are not
	trouble  error // what the last probe found; nil if all was well
	failures int   // calls in a row that found Redis unreachable
	epoch    string
	closed   bool
}

func newHealth(log *zap.Logger, m *metrics) *health {
	return &health{log: log, metrics: m, healed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

func (h *health) refuse() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errClosed
	}
	return h.down
}

// failed notes a call that found Redis unreachable.
func (h *health) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures++
	if h.failures >= giveUpAfter && h.down == nil {
		h.setDown(err)
		poke(h.wake)
	}
}

// answered notes a call that Redis answered, with an error or without.
func (h *health) answered(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = 0
	if h.trouble == nil && takesNothing(err) {
		poke(h.wake)
	}
}

func (h *health) setDown(err error) {
	h.down, h.trouble = err, err
	h.metrics.up.Set(0)
	h.metrics.writable.Set(0)
	h.log.Warn("Redis does not answer: this kas goes on alone", zap.Error(err))
}

// probed notes the outcome of a probe and says whether Redis has just come back.
func (h *health) probed(epoch string, err error, result string) (back bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch result {
	case resultCanceled:
		return false
	case resultUnreachable:
		if h.down == nil {
			h.setDown(err)
		}
		h.trouble = err
		return false
	case resultRefused:
		if h.trouble == nil || h.down != nil {
			h.log.Warn("Redis refuses to be written to", zap.Error(err))
		}
	case resultOK:
		if h.trouble != nil {
			h.log.Info("Redis is well again")
		}
		if h.trouble != nil || h.epoch != epoch {
			poke(h.healed)
		}
		if h.epoch != "" && h.epoch != epoch {
			h.log.Warn("Redis lost its data: writing anew")
			back = true
		}
		h.epoch = epoch
		h.metrics.writable.Set(1)
	}
	if result == resultRefused {
		h.metrics.writable.Set(0)
	}
	back = back || h.down != nil
	h.once, h.down, h.trouble, h.failures = true, nil, err, 0
	h.metrics.up.Set(1)
	return back
}

func (h *health) state() store.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := store.State{Answered: h.once}
	if h.trouble != nil {
		s.Trouble = h.trouble.Error()
	}
	if !h.once && h.trouble == nil {
		s.Trouble = "redis: not asked yet"
	}
	return s
}

func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// probe asks Redis how it does until ctx ends. It is the only one who asks while Redis is unreachable.
func (s *Store) probe(ctx context.Context) {
	for {
		start := time.Now()
		var epoch string
		err := s.ask(ctx, "probe", func(ctx context.Context) error {
			var err error
			epoch, err = s.probeOnce(ctx)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if s.health.probed(epoch, err, verdict(ctx, err, time.Since(start))) {
			s.lookAnew()
		}
		pause := s.probeEvery
		if s.health.state().Trouble != "" {
			pause = probeInTrouble
		}
		select {
		case <-ctx.Done():
			return
		case <-s.health.wake:
		case <-time.After(pause + mrand.N(pause/2)):
		}
	}
}

func (s *Store) probeOnce(ctx context.Context) (string, error) {
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() })
		if err != nil {
			cluster.ReloadState(ctx)
			return "", fmt.Errorf("a node of the cluster: %w", err)
		}
	}
	return epochScript.Run(ctx, s.client, []string{s.key("epoch")}, rand.Text(), epochTTL.Milliseconds()).Text()
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
