package redisstore_test

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/store"
	"gitlab.com/agentk/agentk/internal/store/redisstore"
	"gitlab.com/agentk/agentk/test/redis"
)

// TestStore_CallsFindOutByThemselves is a Redis that falls silent long before the next probe.
func TestStore_CallsFindOutByThemselves(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s := open(t, redisstore.Config{File: quick(at(server)), ProbeEvery: time.Hour})
	server.Pause()
	const calls = 100
	start := time.Now()
	for range calls {
		if ok, err := s.Allow(t.Context(), "x", 1000, time.Hour); ok || err == nil {
			t.Fatalf("a frozen Redis answered: %t, %v", ok, err)
		}
	}
	if took := time.Since(start); took > calls*150*time.Millisecond {
		t.Errorf("%d calls took %v", calls, took)
	}
	server.Resume()
	eventually(t, "answer", func() bool { return s.State() == store.State{Answered: true} })
}

func TestStore_GapEndsSubscriptions(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s := open(t, redisstore.Config{File: at(server), ProbeEvery: time.Hour})

	eventually(t, "subscription", func() bool {
		n, err := server.Do(t.Context(), "PUBSUB", "NUMSUB", "gitlab-kas:events")
		return err == nil && n == "gitlab-kas:events\n1"
	})
	events, err := s.Subscribe(t.Context())
	must(t, err)
	_, err = server.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub")
	must(t, err)
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-events:
			if !open {
				return
			}
		case <-timeout:
			t.Fatal("the subscription goes on as if nothing had been missed")
		}
	}
}

// TestWatch_LostDataIsNoticed is a Redis that is emptied while nobody is left to write the location anew.
func TestWatch_LostDataIsNoticed(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s := open(t, redisstore.Config{File: at(server), ProbeEvery: 500 * time.Millisecond})
	must(t, s.AddTunnel(t.Context(), 1, "grpc://dead", time.Hour))
	list := s.Watch(t.Context(), 1)
	hears(t, list, "grpc://dead")
	_, err := server.Do(t.Context(), "FLUSHALL")
	must(t, err)
	hears(t, list, "")
}
