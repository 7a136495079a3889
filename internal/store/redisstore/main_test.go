package redisstore_test

import (
	"context"
	"flag"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

// TestMain lets more tests run at once than there are processors: they wait for Redis to do something, most of the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long tests wait for what should happen soon. A sentinel that found its machine too slow looks on for half a minute.
const patience = 2 * time.Minute

// clock stands still until it is advanced.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// at is the configuration for a single server.
func at(s *redis.Server) *kascfg.RedisCF {
	return &kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Server{Server: &kascfg.RedisServerCF{Address: s.Address()}}}
}

// prefixed is a configuration with a prefix of the test's own.
func prefixed(t *testing.T, f *kascfg.RedisCF) *kascfg.RedisCF {
	f.KeyPrefix = strings.NewReplacer(" ", "_", "/", "_").Replace(t.Name())
	return f
}

// open returns a store that runs until the test ends, has had an answer of Redis, and hears what others publish: those who subscribe
// before are told that they may have missed something. A Registerer is a Registry.
func open(t *testing.T, cfg redisstore.Config) *redisstore.Store {
	t.Helper()
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewPedanticRegistry()
	}
	s, err := redisstore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	eventually(t, "an answer of Redis", func() bool { return s.State() == store.State{Answered: true} })
	subscribed(t, cfg.Registerer.(*prometheus.Registry))
	return s
}

// subscribed waits until a store hears what others publish.
func subscribed(t *testing.T, registry *prometheus.Registry) {
	t.Helper()
	eventually(t, "subscription", func() bool { return gauges(t, registry)["kas_redis_subscribed"] == 1 })
}

// run runs something until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
