package k8sproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// clock is set by the test.
type clock struct{ now atomic.Int64 }

func (c *clock) Now() time.Time       { return time.Unix(0, c.now.Load()) }
func (c *clock) pass(d time.Duration) { c.now.Add(int64(d)) }
func key(n int) cacheKey              { return cacheKey{byte(n), byte(n >> 8)} }
func errNo() error                    { return fault.New(fault.Unauthenticated, fault.GitLab, "no") }

func errBroken() error { return fault.New(fault.Unavailable, fault.GitLab, "broken") }

func counted(n *atomic.Int64, err error) func(context.Context) (int64, error) {
	return func(context.Context) (int64, error) { return n.Add(1), err }
}

func TestCache_TTL(t *testing.T) {
	var tick clock
	c := newCache[int64](cacheLimits{ttl: time.Minute, errorTTL: 10 * time.Second, entries: 10, now: tick.Now})
	var good, no, broken atomic.Int64
	ask := func() {
		_, _ = c.get(t.Context(), key(1), counted(&good, nil))
		_, _ = c.get(t.Context(), key(2), counted(&no, errNo()))
		_, _ = c.get(t.Context(), key(3), counted(&broken, errBroken()))
	}
	steps := []struct {
		pass             time.Duration
		good, no, broken int64
	}{
		{0, 1, 1, 1},
		{0, 1, 1, 2},
		{10*time.Second - 1, 1, 1, 3},
		{1, 1, 2, 4},
		{50 * time.Second, 2, 3, 5},
	}
	for i, s := range steps {
		tick.pass(s.pass)
		ask()
		if good.Load() != s.good || no.Load() != s.no || broken.Load() != s.broken {
			t.Errorf("step %d: asked %d, %d, %d times", i, good.Load(), no.Load(), broken.Load())
		}
	}
}

func TestCache_Off(t *testing.T) {
	var tick clock
	var n atomic.Int64
	for _, limits := range []cacheLimits{{errorTTL: time.Minute}, {ttl: time.Minute}} {
		limits.entries, limits.now = 10, tick.Now
		n.Store(0)
		c := newCache[int64](limits)
		for range 3 {
			_, _ = c.get(t.Context(), key(1), counted(&n, errNo()))
		}
		if n.Load() != 3 {
			t.Errorf("%+v: asked %d times", limits, n.Load())
		}
	}
}

func TestCache_OneAtATime(t *testing.T) {
	var tick clock
	c := newCache[int64](cacheLimits{ttl: time.Minute, entries: 10, now: tick.Now})
	var n atomic.Int64
	asked, release := make(chan struct{}), make(chan struct{})
	fetch := func(context.Context) (int64, error) {
		if n.Add(1) == 1 {
			close(asked)
		}
		<-release
		return 42, nil
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if v, err := c.get(t.Context(), key(1), fetch); v != 42 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
		})
	}
	<-asked
	// A waiting request honours its own end.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.get(ctx, key(1), fetch); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting with an ended context: %v", err)
	}
	close(release)
	wg.Wait()
	if n.Load() != 1 {
		t.Errorf("asked %d times", n.Load())
	}
}

// The one who asks leaves: its end is not the answer of the others.
func TestCache_AskerGivesUp(t *testing.T) {
	var tick clock
	c := newCache[int64](cacheLimits{ttl: time.Minute, errorTTL: time.Minute, entries: 10, now: tick.Now})
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.get(ctx, key(1), func(ctx context.Context) (int64, error) {
			close(asked)
			<-ctx.Done()
			return 0, fault.Wrap(fault.Unauthenticated, fault.GitLab, ctx.Err(), "interrupted")
		})
		if err == nil {
			t.Error("no error")
		}
	})
	<-asked
	wg.Go(func() {
		if v, err := c.get(t.Context(), key(1), func(context.Context) (int64, error) { return 42, nil }); v != 42 || err != nil {
			t.Errorf("%d, %v", v, err)
		}
	})
	cancel()
	wg.Wait()
}

func TestCache_FetchPanics(t *testing.T) {
	var tick clock
	c := newCache[int64](cacheLimits{ttl: time.Minute, entries: 10, now: tick.Now})
	func() {
		defer func() { _ = recover() }()
		_, _ = c.get(t.Context(), key(1), func(context.Context) (int64, error) { panic("bug") })
	}()
	if v, err := c.get(t.Context(), key(1), func(context.Context) (int64, error) { return 42, nil }); v != 42 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
}

// An answer that was asked for before a change is not kept after it.
func TestCache_ClearDuringFetch(t *testing.T) {
	var tick clock
	c := newCache[string](cacheLimits{ttl: time.Minute, entries: 10, now: tick.Now})
	v, err := c.get(t.Context(), key(1), func(context.Context) (string, error) {
		c.clear()
		return "old", nil
	})
	if v != "old" || err != nil {
		t.Fatal(v, err)
	}
	v, err = c.get(t.Context(), key(1), func(context.Context) (string, error) { return "new", nil })
	if v != "new" || err != nil {
		t.Fatal(v, err)
	}
}

func TestCache_Bounded(t *testing.T) {
	var tick clock
	c := newCache[int64](cacheLimits{ttl: time.Minute, errorTTL: time.Minute, entries: 50, now: tick.Now})
	var n atomic.Int64
	for i := range 1000 {
		_, _ = c.get(t.Context(), key(i), counted(&n, errNo()))
		if len(c.items) > 50 {
			t.Fatalf("%d entries", len(c.items))
		}
	}
	tick.pass(time.Hour)
	for i := range 100 {
		_, _ = c.get(t.Context(), key(2000+i), counted(&n, errBroken()))
	}
	if len(c.items) > 5 {
		t.Errorf("%d expired entries stay", len(c.items))
	}
}

func TestUserKey(t *testing.T) {
	seen := map[cacheKey]string{}
	for _, c := range []credential{
		{access: accessPAT, agentID: 1, token: "a"},
		{access: accessPAT, agentID: 2, token: "a"},
		{access: accessSession, agentID: 1, token: "a"},
		{access: accessSession, agentID: 1, token: "a", csrf: "b"},
		{access: accessSession, agentID: 1, token: "ab"},
		{access: accessSession, agentID: 1, csrf: "ab"},
	} {
		k, name := userKey(c), fmt.Sprintf("%+v", c)
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[k] = name
	}
}
