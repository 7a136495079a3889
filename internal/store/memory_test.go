package store_test

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock stands still until it is advanced.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

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

func TestMemory_Contract(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Subject {
		c := &clock{now: time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC)}
		return storetest.Subject{Store: store.NewMemory(store.MemoryConfig{Now: c.Now}), Now: c.Now, Advance: c.Advance}
	})
}

func TestMemory_LostEventsAreCounted(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := store.NewMemory(store.MemoryConfig{Registerer: registry})
	if _, err := m.Subscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range store.EventBuffer + 3 {
		if err := m.Publish(t.Context(), strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if got := families[0].GetMetric()[0].GetCounter().GetValue(); got != 3 {
		t.Errorf("%v events counted as lost, want 3", got)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

func TestMemory_ManyAtOnce(t *testing.T) {
	m := store.NewMemory(store.MemoryConfig{})
	var wg sync.WaitGroup
	for i := range int64(8) {
		wg.Go(func() {
			ctx := t.Context()
			locations := m.Watch(ctx, i%2)
			events, err := m.Subscribe(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range int64(200) {
				err := m.RegisterAgent(ctx, &agenttracker.ConnectedAgentInfo{AgentId: n % 5, ConnectionId: i}, time.Minute)
				if err != nil {
					t.Error(err)
				}
				_ = m.AddTunnel(ctx, i%2, strconv.FormatInt(n, 10), time.Minute)
				_ = m.RemoveTunnel(ctx, i%2, strconv.FormatInt(n, 10))
				_ = m.Publish(ctx, "group/one")
				_, _ = m.Allow(ctx, strconv.FormatInt(n, 10), 3, time.Minute)
				select {
				case <-locations:
				case <-events:
				default:
				}
			}
		})
	}
	wg.Wait()
}
