package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

func connection(agent, id int64) *agenttracker.ConnectedAgentInfo {
	return &agenttracker.ConnectedAgentInfo{AgentMeta: &entity.AgentMeta{Version: "v1"}, ConnectionId: id, AgentId: agent, ProjectId: 1}
}

// quick gives up soon on a Redis that does not answer.
func quick(f *kascfg.RedisCF) *kascfg.RedisCF {
	f.WriteTimeout = durationpb.New(300 * time.Millisecond)
	return f
}

// replica is a kas with a real clock.
func replica(t *testing.T, file *kascfg.RedisCF) *store.Fallback {
	t.Helper()
	shared, err := redisstore.New(redisstore.Config{File: file, ProbeEvery: time.Second})
	must(t, err)
	f := store.NewFallback(store.FallbackConfig{Shared: shared, Local: store.NewMemory(store.MemoryConfig{})})
	run(t, f.Run)
	eventually(t, "answer", func() bool { return f.Ready(t.Context()) == nil })
	return f
}

func lists(t *testing.T, s store.Store, want string) bool {
	t.Helper()
	list, err := s.AgentsByID(t.Context(), 1)
	must(t, err)
	tunnels, err := s.Tunnels(t.Context(), 1)
	must(t, err)
	return fmt.Sprint(len(list), tunnels) == want
}

// aloneBehaviour is what a replica does whose Redis gives nothing, whatever the reason.
func aloneBehaviour(t *testing.T, f *store.Fallback, reason string) {
	t.Helper()
	ctx := t.Context()
	eventually(t, "trouble", func() bool { return strings.Contains(f.State().Trouble, reason) })
	if err := f.Ready(ctx); err != nil {
		t.Errorf("not ready any more: %v", err)
	}
	start := time.Now()
	const calls = 200
	admitted := 0
	for range calls {
		ok, err := f.Allow(ctx, "token", calls/2, time.Hour)
		must(t, err)
		if ok {
			admitted++
		}
	}
	if admitted < calls/2 || admitted == calls { // the hour may have changed in between
		t.Errorf("%d calls admitted, want %d", admitted, calls/2)
	}
	if took := time.Since(start); took > calls*100*time.Millisecond {
		t.Errorf("%d calls took %v", calls, took)
	}
	must(t, f.RegisterAgent(ctx, connection(1, 12), time.Hour))
	if !lists(t, f, "2 [grpc://a]") {
		t.Error("what this replica has written is not listed")
	}
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	hears(t, f.Watch(bounded, 1), "grpc://a")
	events, err := f.Subscribe(bounded)
	must(t, err)
	must(t, f.Publish(ctx, "group/one"))
	select {
	case path := <-events:
		if path != "group/one" {
			t.Errorf("event %q", path)
		}
	case <-time.After(patience):
		t.Error("no event")
	}
	must(t, f.UnregisterAgent(ctx, 1, 12))
}

func written(t *testing.T, f *store.Fallback) {
	t.Helper()
	must(t, f.RegisterAgent(t.Context(), connection(1, 11), time.Hour))
	must(t, f.AddTunnel(t.Context(), 1, "grpc://a", time.Hour))
}

// healed waits until everybody sees what a has written.
func healed(t *testing.T, a, b *store.Fallback) {
	t.Helper()
	eventually(t, "recovery", func() bool {
		return a.State().Trouble == "" && b.State().Trouble == "" && lists(t, a, "1 [grpc://a]") && lists(t, b, "1 [grpc://a]")
	})
}

// outage is a way in which Redis gives nothing, and its end.
type outage struct {
	cfg          redis.Config
	fails, heals func(t *testing.T, s *redis.Server)
	// reason is what the state says of it.
	reason string
}

var outages = map[string]outage{
	"killed": {
		redis.Config{},
		func(_ *testing.T, s *redis.Server) { s.Kill() },
		func(t *testing.T, s *redis.Server) { must(t, s.Restart(t.Context())) },
		"connection refused",
	},
	"frozen": {
		redis.Config{},
		func(_ *testing.T, s *redis.Server) { s.Pause() },
		func(_ *testing.T, s *redis.Server) { s.Resume() },
		"timeout",
	},
	"full": {
		redis.Config{},
		func(t *testing.T, s *redis.Server) { set(t, s, "maxmemory", "1") },
		func(t *testing.T, s *redis.Server) { set(t, s, "maxmemory", "0") },
		"OOM",
	},
	"loading": {
		redis.Config{Persist: true, Lines: []string{"key-load-delay 1000", "loading-process-events-interval-bytes 1024"}},
		restartWithMuchToLoad,
		func(t *testing.T, s *redis.Server) { set(t, s, "key-load-delay", "0") },
		"LOADING",
	},
}

func restartWithMuchToLoad(t *testing.T, s *redis.Server) {
	t.Helper()
	for _, command := range [][]string{{"DEBUG", "POPULATE", "30000"}, {"BGREWRITEAOF"}} {
		_, err := s.Do(t.Context(), command...)
		must(t, err)
	}
	eventually(t, "file", func() bool {
		busy, err := s.Counter(t.Context(), "aof_rewrite_in_progress")
		queued, also := s.Counter(t.Context(), "aof_rewrite_scheduled")
		return err == nil && also == nil && busy+queued == 0
	})
	s.Kill()
	must(t, s.Spawn())
}

func TestFallback_RedisGivesNothing(t *testing.T) {
	t.Parallel()
	for name, o := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redis.StartT(t, o.cfg)
			a, b := replica(t, quick(at(server))), replica(t, quick(at(server)))
			written(t, a)
			healed(t, a, b)
			o.fails(t, server)
			aloneBehaviour(t, a, o.reason)
			o.heals(t, server)
			healed(t, a, b)
		})
	}
}

func set(t *testing.T, s *redis.Server, name, value string) {
	t.Helper()
	_, err := s.Do(t.Context(), "CONFIG", "SET", name, value)
	must(t, err)
}

func TestFallback_RedisLosesItsData(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	a, b := replica(t, at(server)), replica(t, at(server))
	locations := b.Watch(t.Context(), 1)
	written(t, a)
	hears(t, locations, "grpc://a")
	_, err := server.Do(t.Context(), "FLUSHALL")
	must(t, err)
	healed(t, a, b)
	// Told by subscription, although nothing wrote to this agent but the recovery.
	must(t, a.RemoveTunnel(t.Context(), 1, "grpc://a"))
	hears(t, locations, "")
}

func TestFallback_WhatIsRemovedMeanwhileStaysAway(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{Persist: true})
	a, b := replica(t, quick(at(server))), replica(t, quick(at(server)))
	written(t, a)
	healed(t, a, b)
	events, err := b.Subscribe(t.Context())
	must(t, err)
	locations := b.Watch(t.Context(), 1)
	hears(t, locations, "grpc://a")
	server.Kill()
	must(t, a.RemoveTunnel(t.Context(), 1, "grpc://a"))
	must(t, a.UnregisterAgent(t.Context(), 1, 11))
	must(t, a.Publish(t.Context(), "group/one"))
	if !lists(t, a, "0 []") {
		t.Error("still listed")
	}
	must(t, server.Restart(t.Context()))
	eventually(t, "removal", func() bool { return lists(t, b, "0 []") })
	hears(t, locations, "")
	timeout := time.After(patience)
	for {
		select {
		case path, open := <-events:
			if path == "group/one" || !open { // told, or told to look anew
				return
			}
		case <-timeout:
			t.Fatal("b never learned of the push")
		}
	}
}

// What Redis has not been told yet is no news to this process, however often Redis is tried.
func TestFallback_OwedPushIsHeardOnce(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	server.Kill()
	shared, err := redisstore.New(redisstore.Config{File: at(server)})
	must(t, err)
	registry := prometheus.NewPedanticRegistry()
	f := store.NewFallback(store.FallbackConfig{Shared: shared, Local: store.NewMemory(store.MemoryConfig{}), Registerer: registry})
	run(t, f.Run)
	events, err := f.Subscribe(t.Context())
	must(t, err)
	must(t, f.Publish(t.Context(), "group/one"))
	eventually(t, "second attempt to tell Redis", func() bool { return rewriteErrors(t, registry) >= 2 })
	must(t, f.Publish(t.Context(), "group/two"))
	for _, want := range []string{"group/one", "group/two"} {
		if got := <-events; got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
}

// rewriteErrors is how often Redis could not be told what it has missed.
func rewriteErrors(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "kas_store_rewrites_total" && m.GetLabel()[0].GetValue() == "error" {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestFallback_Failover(t *testing.T) {
	t.Parallel()
	s := redis.StartSentinelT(t, redis.SentinelConfig{})
	file := func() *kascfg.RedisCF {
		return quick(&kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Sentinel{Sentinel: &kascfg.RedisSentinelCF{
			MasterName: redis.MasterName, Addresses: s.Addresses(),
		}}})
	}
	a, b := replica(t, file()), replica(t, file())
	written(t, a)
	locations := b.Watch(t.Context(), 1)
	hears(t, locations, "grpc://a")
	s.Data[0].Kill()
	healed(t, a, b)
	eventually(t, "new master", func() bool {
		master, err := s.Master(t.Context())
		return err == nil && master == s.Data[1]
	})
	must(t, a.RemoveTunnel(t.Context(), 1, "grpc://a"))
	hears(t, locations, "")
}

func TestFallback_ClusterNodeRestarts(t *testing.T) {
	t.Parallel()
	c := redis.StartClusterT(t, redis.Config{Lines: []string{"cluster-node-timeout 2000"}})
	file := func() *kascfg.RedisCF {
		return quick(&kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Cluster{Cluster: &kascfg.RedisClusterCF{Addresses: c.Addresses()}}})
	}
	a, b := replica(t, file()), replica(t, file())
	written(t, a)
	healed(t, a, b)
	c.Nodes[1].Kill()
	eventually(t, "trouble", func() bool { return a.State().Trouble != "" })
	must(t, a.RegisterAgent(t.Context(), connection(1, 11), time.Hour))
	if !lists(t, a, "1 [grpc://a]") {
		t.Error("what this replica has written is not listed")
	}
	must(t, c.Nodes[1].Restart(t.Context()))
	healed(t, a, b)
}
