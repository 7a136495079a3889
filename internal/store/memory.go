package store

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// sweepEvery is how often writing to the store also throws out what has expired.
	sweepEvery = time.Minute
	// maxLastSeen bounds the agents of which it is remembered when they were last seen (about 100 bytes each).
	maxLastSeen = 100_000
	// maxLimitKeys bounds the counters of rate limits: keys come from tokens that nobody has checked yet.
	maxLimitKeys = 100_000
	// maxRefusals bounds the refusals, for the same reason.
	maxRefusals = 100_000
)

// MemoryConfig configures a Memory.
type MemoryConfig struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Registerer gets the metric of lost events; nil means no metrics.
	Registerer prometheus.Registerer
}

// Memory is the store of a kas that has no replicas. It starts no goroutines and needs no closing.
type Memory struct {
	now  func() time.Time
	lost prometheus.Counter

	// mu guards everything below it. All work under it is short and none of it waits.
	mu        sync.Mutex
	agents    map[int64]map[int64]connection // agent id, connection id
	projects  map[int64]map[connectionKey]struct{}
	seen      lastSeen
	tunnels   map[int64]map[string]time.Time // agent id, location: expiry
	watchers  map[int64]map[*watcher]struct{}
	events    map[chan string]struct{}
	limits    map[string]counter
	refusals  map[string]refusal
	nextSweep time.Time
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(cfg MemoryConfig) *Memory {
	m := &Memory{
		now: cfg.Now,
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kas_push_events_dropped_total",
			Help: "Push events that a slow subscriber inside kas lost",
		}),
		agents:   map[int64]map[int64]connection{},
		projects: map[int64]map[connectionKey]struct{}{},
		seen:     newLastSeen(maxLastSeen),
		tunnels:  map[int64]map[string]time.Time{},
		watchers: map[int64]map[*watcher]struct{}{},
		events:   map[chan string]struct{}{},
		limits:   map[string]counter{},
		refusals: map[string]refusal{},
	}
	if m.now == nil {
		m.now = time.Now
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(m.lost)
	}
	return m
}

// sweep throws out what has expired, at most once per sweepEvery. Writers call it with mu held: without writes nothing grows.
func (m *Memory) sweep(now time.Time) {
	if now.Before(m.nextSweep) {
		return
	}
	m.nextSweep = now.Add(sweepEvery)
	m.sweepAgents(now)
	m.sweepTunnels(now)
	for key, c := range m.limits {
		if !now.Before(c.end) {
			delete(m.limits, key)
		}
	}
	for key, r := range m.refusals {
		if !now.Before(r.end) {
			delete(m.refusals, key)
		}
	}
}
