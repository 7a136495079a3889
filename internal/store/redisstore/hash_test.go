package redisstore

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/kascfg"
	"gitlab.com/agentk/agentk/test/redis"
)

// TestDrop_WrittenMeanwhile is a field that is written between the look at it and its removal.
func TestDrop_WrittenMeanwhile(t *testing.T) {
	t.Parallel()
	server := redis.StartT(t, redis.Config{})
	s, err := New(Config{File: &kascfg.RedisCF{
		RedisConfig: &kascfg.RedisCF_Server{Server: &kascfg.RedisServerCF{Address: server.Address()}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.Close()
	for _, name := range []string{"written", "forgotten"} {
		p := put{key: "key", name: name, value: encode(time.UnixMilli(1), nil), ttl: time.Minute}
		if _, err := s.write(t.Context(), "test", []put{p}, nil); err != nil {
			t.Fatal(err)
		}
	}
	_, dead, err := s.scan(t.Context(), "test", "key")
	if err != nil || len(dead) != 2 {
		t.Fatalf("%d expired fields, %v", len(dead), err)
	}
	if _, err := server.Do(t.Context(), "HSET", "key", "written", "anew"); err != nil {
		t.Fatal(err)
	}
	for _, f := range dead {
		if err := dropScript.Run(t.Context(), s.client, []string{"key"}, f.name, f.raw).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := server.Do(t.Context(), "HKEYS", "key"); err != nil || got != "written" {
		t.Errorf("left is %q, %v", got, err)
	}
}
