package redisstore_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/internal/store/storetest"
	"gitlab.com/agentk/agentk/test/redis"
)

// contract runs the contract suite, each of its tests under a prefix of its own, once bare and once behind a Fallback.
func contract(t *testing.T, file func() *kascfg.RedisCF) {
	t.Run("bare", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Subject {
			c := newClock()
			s := open(t, redisstore.Config{File: prefixed(t, file()), Now: c.Now})
			return storetest.Subject{Store: s, Now: c.Now, Advance: c.Advance}
		})
	})
	t.Run("fallback", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Subject {
			c := newClock()
			f, registry := openFallback(t, prefixed(t, file()), c)
			eventually(t, "an answer of Redis", func() bool { return f.State() == store.State{Answered: true} })
			subscribed(t, registry)
			return storetest.Subject{Store: f, Now: c.Now, Advance: c.Advance}
		})
	})
}

func openFallback(t *testing.T, file *kascfg.RedisCF, c *clock) (*store.Fallback, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	shared, err := redisstore.New(redisstore.Config{File: file, Now: c.Now, Registerer: registry})
	must(t, err)
	f := store.NewFallback(store.FallbackConfig{Shared: shared, Local: store.NewMemory(store.MemoryConfig{Now: c.Now})})
	run(t, f.Run)
	return f, registry
}

func TestContract_Server(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	contract(t, func() *kascfg.RedisCF { return at(server) })
}

func TestContract_Sentinel(t *testing.T) {
	t.Parallel()
	s := redis.StartSentinelT(t, redis.SentinelConfig{
		Data: redis.Config{Password: "data", TLS: true}, SentinelPassword: "watch", DownAfter: time.Minute, // nobody fails here
	})
	encrypted := &kascfg.RedisTLSCF{Enabled: true, CaCertificateFile: s.Data[0].CAFile()}
	contract(t, func() *kascfg.RedisCF {
		return &kascfg.RedisCF{
			Tls:          encrypted,
			PasswordFile: s.Data[0].PasswordFile(),
			RedisConfig: &kascfg.RedisCF_Sentinel{Sentinel: &kascfg.RedisSentinelCF{
				MasterName: redis.MasterName, Addresses: s.Addresses(), SentinelPasswordFile: s.SentinelPasswordFile(), Tls: encrypted,
			}},
		}
	})
}

func TestContract_Cluster(t *testing.T) {
	t.Parallel()
	c := redis.StartClusterT(t, redis.Config{})
	contract(t, func() *kascfg.RedisCF {
		return &kascfg.RedisCF{RedisConfig: &kascfg.RedisCF_Cluster{Cluster: &kascfg.RedisClusterCF{Addresses: c.Addresses()[:1]}}}
	})
}

// TestContract_NoRedis is the contract of a kas whose Redis is not there at all.
func TestContract_NoRedis(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	server.Kill()
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		c := newClock()
		f, _ := openFallback(t, at(server), c)
		return storetest.Subject{Store: f, Now: c.Now, Advance: c.Advance}
	})
}
