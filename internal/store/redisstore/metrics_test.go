package redisstore_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

// gauges are the metrics without labels, by name.
func gauges(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetGauge() != nil {
				values[family.GetName()] = m.GetGauge().GetValue()
			}
			for _, label := range m.GetLabel() {
				values[label.GetValue()]++
			}
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	registry := prometheus.NewPedanticRegistry()
	shared, err := redisstore.New(redisstore.Config{File: at(server), Registerer: registry})
	must(t, err)
	f := store.NewFallback(store.FallbackConfig{
		Shared: shared, Local: store.NewMemory(store.MemoryConfig{Registerer: registry}), Registerer: registry,
	})
	if err := f.Ready(t.Context()); err == nil {
		t.Error("ready before Redis has answered")
	}
	if got := gauges(t, registry); got["kas_store_degraded"] != 1 {
		t.Errorf("before the first answer: %v", got)
	}
	run(t, f.Run)
	subscribed(t, registry)
	eventually(t, "answer", func() bool { return f.Ready(t.Context()) == nil })
	got := gauges(t, registry)
	if got["kas_redis_up"] != 1 || got["kas_redis_writable"] != 1 || got["kas_store_degraded"] != 0 || got["probe"] == 0 {
		t.Errorf("while all is well: %v", got)
	}
	server.Kill()
	eventually(t, "trouble", func() bool {
		must(t, f.RegisterAgent(t.Context(), connection(1, 1), 1))
		got = gauges(t, registry)
		return got["kas_redis_up"] == 0 && got["kas_redis_subscribed"] == 0 && got["kas_store_degraded"] == 1
	})
	must(t, f.RegisterAgent(t.Context(), connection(1, 1), 1))
	got = gauges(t, registry)
	for _, label := range []string{"ok", "unreachable", "skipped", "register"} {
		if got[label] == 0 {
			t.Errorf("nothing is labelled %q: %v", label, got)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}
