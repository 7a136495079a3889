package redisstore_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

// TestWatch_AbsentAgents is what it costs Redis that many clients keep asking for agents that are not connected.
func TestWatch_AbsentAgents(t *testing.T) {
	t.Parallel()
	const (
		agents = 500
		rounds = 20
	)
	server := redis.StartT(t, redis.Config{})
	quiet := redisstore.Config{File: at(server), ProbeEvery: time.Hour}
	s, other := open(t, quiet), open(t, quiet)
	before := commands(t, server)
	for range rounds { // requests come, wait and give up
		ctx, cancel := context.WithCancel(t.Context())
		var lists []<-chan []string
		for i := range int64(agents) {
			for range 3 {
				lists = append(lists, s.Watch(ctx, i))
			}
		}
		for _, list := range lists {
			if got := <-list; len(got) > 0 {
				t.Errorf("found %v", got)
			}
		}
		cancel()
		for _, list := range lists {
			for range list {
			}
		}
	}
	// One read for each agent, and what two stores cost anyway: connecting, probes.
	if n := commands(t, server) - before; n > agents+60 {
		t.Errorf("%d rounds of waiting for %d agents took %d commands", rounds, agents, n)
	}
	// Still it is noticed when one comes.
	list := s.Watch(t.Context(), 7)
	must(t, other.AddTunnel(t.Context(), 7, "grpc://a", time.Minute))
	hears(t, list, "grpc://a")
}

func commands(t *testing.T, s *redis.Server) int64 {
	t.Helper()
	n, err := s.Commands(t.Context())
	must(t, err)
	return n
}

func TestWatch_DeadReplicaVanishes(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s, dead := open(t, redisstore.Config{File: at(server)}), open(t, redisstore.Config{File: at(server)})
	must(t, s.AddTunnel(t.Context(), 1, "grpc://alive", time.Hour))
	list := s.Watch(t.Context(), 1)
	hears(t, list, "grpc://alive")
	// It lives at least until this machine has found the time to notice it.
	for lives := time.Second; ; lives *= 2 {
		must(t, dead.AddTunnel(t.Context(), 1, "grpc://dead", lives))
		if told(list, "grpc://alive grpc://dead", lives) {
			break
		}
		if lives > patience {
			t.Fatal("the other replica was never seen")
		}
	}
	hears(t, list, "grpc://alive")
}

func TestWatch_RefreshedIsNotLost(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s := open(t, redisstore.Config{File: at(server)})
	// It lives at least until this machine has found the time to refresh it.
	for agent, lives := int64(1), 500*time.Millisecond; lives < patience; agent, lives = agent+1, 2*lives {
		begun := time.Now()
		must(t, s.AddTunnel(t.Context(), agent, "grpc://a", lives))
		list := s.Watch(t.Context(), agent)
		seen := told(list, "grpc://a", lives)
		must(t, s.RefreshTunnels(t.Context(), "grpc://a", time.Hour, agent)) // no news: nobody is told
		if !seen || time.Since(begun) > lives/2 {
			continue // it may have ended before
		}
		// The end that the watcher has read passes.
		for timeout := time.After(3 * lives); ; {
			select {
			case got := <-list:
				if len(got) != 1 {
					t.Errorf("was told %v", got)
				}
			case <-timeout:
				return
			}
		}
	}
	t.Fatal("a location that was just added was never seen in time")
}

// told says whether a watcher was told exactly these locations, given with spaces between, before some time has passed.
func told(ch <-chan []string, want string, within time.Duration) bool {
	timeout := time.After(within)
	for {
		select {
		case got := <-ch:
			if strings.Join(got, " ") == want {
				return true
			}
		case <-timeout:
			return false
		}
	}
}

func TestStore_HashesAreSwept(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	c := newClock()
	s := open(t, redisstore.Config{File: at(server), Now: c.Now})
	for i := range int64(100) {
		must(t, s.RegisterAgent(t.Context(), connection(1, i), time.Minute))
		must(t, s.AddTunnel(t.Context(), 1, "grpc://"+strconv.FormatInt(i, 10), time.Minute))
		c.Advance(time.Minute + time.Second)
	}
	for _, key := range []string{"gitlab-kas:agents:1", "gitlab-kas:tunnels:1"} {
		got, err := server.Do(t.Context(), "HLEN", key)
		must(t, err)
		if n, err := strconv.Atoi(got); err != nil || n > 8 {
			t.Errorf("%s has %s fields, one of them alive", key, got)
		}
	}
}

func TestStore_EveryKeyEnds(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	works(t, at(server))
	keys, err := server.Keys(t.Context(), "*")
	must(t, err)
	if len(keys) < 4 {
		t.Errorf("only keys %v", keys)
	}
	for _, key := range keys {
		if ttl, err := server.Do(t.Context(), "PTTL", key); err != nil || ttl == "-1" || key[:11] != "gitlab-kas:" {
			t.Errorf("%q lives %s ms, %v", key, ttl, err)
		}
	}
}

func TestStore_ForeignValues(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s := open(t, redisstore.Config{File: at(server)})
	must(t, s.RegisterAgent(t.Context(), connection(1, 11), time.Hour))
	must(t, s.AddTunnel(t.Context(), 1, "grpc://a", time.Hour))
	for _, key := range []string{"gitlab-kas:agents:1", "gitlab-kas:tunnels:1", "gitlab-kas:agents", "gitlab-kas:project:1"} {
		for field, value := range map[string]string{"abc": "def", "13": "\x08\x01", "14": "\xff\xff\xff"} {
			_, err := server.Do(t.Context(), "HSET", key, field, value)
			must(t, err)
		}
	}
	for _, message := range []string{"x", "", "a b c", "999999999999999999999"} {
		for _, channel := range []string{"gitlab-kas:tunnels", "gitlab-kas:events"} {
			_, err := server.Do(t.Context(), "PUBLISH", channel, message)
			must(t, err)
		}
	}
	for _, key := range []string{"gitlab-kas:seen:1"} {
		_, err := server.Do(t.Context(), "SET", key, "yesterday")
		must(t, err)
	}
	if !lists(t, s, "1 [grpc://a]") {
		t.Error("did not find the readable entries alone")
	}
	list, err := s.AgentsByProject(t.Context(), 1)
	if err != nil || len(list) != 1 {
		t.Errorf("by project: %v, %v", list, err)
	}
	if list, err = s.AllAgents(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("all: %v, %v", list, err)
	}
	if _, ok, err := s.LastSeen(t.Context(), 1); !ok || err != nil {
		t.Errorf("last seen: %t, %v", ok, err)
	}
}
