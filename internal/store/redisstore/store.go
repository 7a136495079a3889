package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/store"
)

// Store is a store.Shared in Redis.
type Store struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
	now     func() time.Time
	// probeEvery is how often Redis is asked how it does.
	probeEvery time.Duration
	log        *zap.Logger
	metrics    *metrics
	health     *health
	events     *events
	watch      *watchBoard
}

var _ store.Shared = (*Store)(nil)

// New returns a store. It fails when the configuration cannot work (a file is missing), not when Redis cannot be reached. Nothing is
// connected before Run or the first call.
func New(cfg Config) (*Store, error) {
	if cfg.File == nil {
		return nil, errors.New("redis: no configuration")
	}
	silence()
	client, err := newClient(cfg.File)
	if err != nil {
		return nil, err
	}
	s := &Store{
		client:  client,
		prefix:  keyPrefix(cfg.File),
		timeout: callTimeout(cfg.File),
		now:     cfg.Now,
		log:     cfg.Log,
		metrics: newMetrics(cfg.Registerer),
		watch:   newWatchBoard(),

		probeEvery: cfg.ProbeEvery,
	}
	if s.probeEvery <= 0 {
		s.probeEvery = defaultProbeEvery
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	s.health = newHealth(s.log, s.metrics)
	s.events = newEvents(rand.Text(), s.metrics)
	return s, nil
}

// Run keeps the store alive until ctx ends: it asks Redis how it does, listens to it and keeps the watched locations up to date. Then it
// closes all connections; calls fail from then on. It returns nil.
func (s *Store) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.probe(ctx) })
	wg.Go(func() { s.listen(ctx) })
	wg.Go(func() { s.keepWatch(ctx) })
	wg.Wait()
	_ = s.client.Close()
	s.health.close()
	return nil
}

// State implements store.Shared.
func (s *Store) State() store.State { return s.health.state() }

// Healed implements store.Shared.
func (s *Store) Healed() <-chan struct{} { return s.health.healed }

func (s *Store) key(kind string) string { return s.prefix + ":" + kind }

func (s *Store) keyOf(kind string, id int64) string {
	return s.prefix + ":" + kind + ":" + strconv.FormatInt(id, 10)
}

// silenced keeps the library from writing to the process's error output in a format of its own. Its loggers are package variables.
var silenced sync.Once

func silence() { silenced.Do(func() { redis.SetLogger(nobody{}) }) }

// nobody listens to the library: what matters of it comes back as errors.
type nobody struct{}

func (nobody) Printf(context.Context, string, ...any) {}
