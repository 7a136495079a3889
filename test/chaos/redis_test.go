package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/test/badlink"
	"gitlab.com/agentk/agentk/test/fleet"
)

const (
	// prompt is how long a request may take that has nothing to do with Redis, whatever Redis does: far below every limit of a call to Redis.
	prompt = 2 * time.Second
	// noticed is how long kas may take to see what is the matter with Redis, and that nothing is any more.
	noticed = 20 * time.Second
)

// degraded checks what holds while Redis is no help: the kas with the agent serves it at once, is ready, and says what is wrong.
func degraded(t *testing.T, f *fleet.Fleet, holds *fleet.Kas) {
	t.Helper()
	eventually(t, "readiness names Redis", func(ctx context.Context) error { return says(ctx, holds, "degraded: redis") })
	if got := metric(t, holds, "kas_store_degraded"); got != 1 {
		t.Errorf("kas_store_degraded is %v", got)
	}
	for range 10 {
		started := time.Now()
		if err := ok(ask(soon(t), f, via(holds), demo, word)); err != nil {
			t.Errorf("the agent of this kas: %v", err)
		}
		if took := time.Since(started); took > prompt {
			t.Errorf("a request that needs no Redis took %s", took)
		}
	}
	if exit := f.Kas[0].Runs() && f.Kas[1].Runs(); !exit {
		t.Error("a kas has ended")
	}
}

// says wants a kas that is ready and says something about it.
func says(ctx context.Context, k *fleet.Kas, text string) error {
	page, err := k.Page(ctx, "/readiness")
	if err == nil && !strings.Contains(page, text) {
		err = fmt.Errorf("%s is ready and says %q", k.Name, page)
	}
	return err
}

// healed checks that all is well again, without anybody's help.
func healed(t *testing.T, f *fleet.Fleet, other *fleet.Kas) {
	t.Helper()
	started := time.Now()
	eventually(t, "nothing is degraded", func(ctx context.Context) error {
		var errs []error
		for _, k := range f.Kas {
			errs = append(errs, wellAgain(ctx, k))
		}
		return errors.Join(errs...)
	})
	eventually(t, "the other kas reaches the agent", func(ctx context.Context) error {
		return ok(ask(ctx, f, via(other), demo, word))
	})
	if took := time.Since(started); took > noticed {
		t.Errorf("that took %s", took)
	}
	t.Logf("healed after %s", time.Since(started).Round(time.Millisecond))
}

// wellAgain wants a kas that is ready and has nothing to complain of.
func wellAgain(ctx context.Context, k *fleet.Kas) error {
	page, err := k.Page(ctx, "/readiness")
	if err == nil && strings.Contains(page, "degraded") {
		err = fmt.Errorf("%s says %q", k.Name, page)
	}
	return err
}

func redisDo(t *testing.T, f *fleet.Fleet, command ...string) {
	t.Helper()
	if _, err := f.Redis.Do(soon(t), command...); err != nil {
		t.Fatalf("redis: %v: %v", command, err)
	}
}

// Redis keeps nothing here over its death: whoever has something announces it anew.
func TestRedis_Down(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	f.Redis.Kill()
	degraded(t, f, holds)
	if err := f.Redis.Restart(soon(t)); err != nil {
		t.Fatal(err)
	}
	healed(t, f, other)
}

// The other kas has no way of knowing where the agent is; whoever asks is told so, and why.
func TestRedis_Down_RequestForAnAgentElsewhereEndsWithItsReason(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	f.Redis.Kill()
	degraded(t, f, holds)
	a := ask(soon(t), f, via(other), demo, word)
	if ok(a) != nil {
		if reason, err := a.reason(); err != nil || !strings.Contains(strings.ToLower(reason), "redis") {
			t.Errorf("the answer says %q, %v; want what is wrong", reason, err)
		}
	}
	if err := f.Redis.Restart(soon(t)); err != nil {
		t.Fatal(err)
	}
	healed(t, f, other)
}

func TestRedis_Frozen(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	f.Redis.Pause()
	defer f.Redis.Resume()
	degraded(t, f, holds)
	f.Redis.Resume()
	healed(t, f, other)
}

// A Redis that needs a second for everything is no trouble, only slow.
func TestRedis_Slow(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	for _, k := range f.Kas {
		set(t, k.RedisLink, badlink.Conditions{RTT: time.Second})
	}
	for range 10 {
		started := time.Now()
		if err := ok(ask(soon(t), f, via(holds), demo, word)); err != nil {
			t.Errorf("the agent of this kas: %v", err)
		}
		if took := time.Since(started); took > prompt {
			t.Errorf("a request that needs no Redis took %s", took)
		}
	}
	for _, k := range f.Kas {
		set(t, k.RedisLink, badlink.Conditions{})
	}
	healed(t, f, other)
}

func TestRedis_Full(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	redisDo(t, f, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	redisDo(t, f, "CONFIG", "SET", "maxmemory", "1")
	defer redisDo(t, f, "CONFIG", "SET", "maxmemory", "0")
	degraded(t, f, holds)
	redisDo(t, f, "CONFIG", "SET", "maxmemory", "0")
	healed(t, f, other)
}

// A Redis that has just started reads its file first, and answers LOADING to everybody.
func TestRedis_Loading(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	redisDo(t, f, "DEBUG", "POPULATE", "10000", "ballast", "10")
	redisDo(t, f, "CONFIG", "SET", "loading-process-events-interval-bytes", "1024")
	redisDo(t, f, "CONFIG", "SET", "key-load-delay", "5000") // microseconds: much longer than this test
	loaded := make(chan error, 1)
	ctx := soon(t)
	go func() {
		_, err := f.Redis.Do(ctx, "DEBUG", "RELOAD")
		loaded <- err
	}()
	eventually(t, "Redis is loading", func(ctx context.Context) error {
		if _, err := f.Redis.Do(ctx, "GET", "x"); err == nil || !strings.HasPrefix(err.Error(), "LOADING") {
			return fmt.Errorf("it says %v", err)
		}
		return nil
	})
	degraded(t, f, holds)
	redisDo(t, f, "CONFIG", "SET", "key-load-delay", "0")
	healed(t, f, other)
	<-loaded // Do gives up after some seconds: what it says does not matter
	redisDo(t, f, "EVAL", "for _, k in ipairs(redis.call('KEYS', 'ballast:*')) do redis.call('DEL', k) end", "0")
}

// One kas cannot reach Redis, and nobody tells it: the others go on.
func TestRedis_BehindABlackHoleForOneKas(t *testing.T) {
	f := share(t)
	holds, other := holder(t, f, demoID)
	set(t, holds.RedisLink, badlink.Blackhole)
	degraded(t, f, holds)
	if err := says(soon(t), other, "degraded"); err == nil {
		t.Error("the other kas is degraded too")
	}
	holds.RedisLink.Reset()
	set(t, holds.RedisLink, badlink.Conditions{})
	healed(t, f, other)
}

func TestRedis_ConnectionsCut(t *testing.T) {
	f := share(t)
	_, other := holder(t, f, demoID)
	for range 5 {
		for _, k := range f.Kas {
			k.RedisLink.Reset()
		}
		for _, k := range f.Kas {
			if err := ok(ask(soon(t), f, via(k), demo, word)); err != nil {
				t.Errorf("through %s: %v", k.Name, err)
			}
		}
	}
	healed(t, f, other)
}
