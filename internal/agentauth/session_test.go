package agentauth

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

func TestAgent_OneLookupForMany(t *testing.T) {
	b := newAgents()
	b.gate = make(chan struct{})
	a := newAuth(t, b, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if agent, err := a.Agent(rpcContext(t.Context(), a, "good")); err != nil || agent.ID != 1 {
				t.Errorf("%v, %v", agent, err)
			}
		})
	}
	eventually(t, "first look-up", func() bool { return b.lookups.Load() == 1 })
	// One that gives up does not disturb the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Agent(rpcContext(ctx, a, "good")); fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v", err)
	}
	close(b.gate)
	wg.Wait()
	if n := b.lookups.Load(); n > 50 {
		t.Errorf("%d look-ups", n)
	}
}

func TestAgent_Cache(t *testing.T) {
	trouble := fault.New(fault.Unavailable, fault.GitLab, "unavailable")
	tests := map[string]struct {
		token         string
		trouble       error
		ttl, errorTTL time.Duration
		after         time.Duration
		lookups       int64
	}{
		"success is kept":            {"good", nil, time.Minute, time.Second, 59 * time.Second, 1},
		"success expires":            {"good", nil, time.Minute, time.Second, 61 * time.Second, 2},
		"refusal is kept":            {"bad", nil, time.Minute, time.Second, 900 * time.Millisecond, 1},
		"refusal expires":            {"bad", nil, time.Minute, time.Second, 2 * time.Second, 2},
		"trouble is not kept":        {"good", trouble, time.Minute, time.Second, 0, 2},
		"no TTL, success":            {"good", nil, 0, time.Second, 0, 2},
		"no TTL disables both":       {"bad", nil, 0, time.Second, 0, 2},
		"refusal without error TTL":  {"bad", nil, time.Minute, 0, 0, 2},
		"context error is not kept":  {"good", context.DeadlineExceeded, time.Minute, time.Minute, 0, 2},
		"internal error is not kept": {"good", errors.New("odd"), time.Minute, time.Minute, 0, 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newAgents()
				b.trouble = test.trouble
				a := newAuth(t, b, func(cfg *Config) { cfg.CacheTTL, cfg.ErrorTTL = test.ttl, test.errorTTL })
				_, first := a.Agent(rpcContext(t.Context(), a, test.token))
				time.Sleep(test.after)
				_, second := a.Agent(rpcContext(t.Context(), a, test.token))
				if got := b.lookups.Load(); got != test.lookups {
					t.Errorf("%d look-ups, want %d", got, test.lookups)
				}
				if (first == nil) != (second == nil) || fault.KindOf(first) != fault.KindOf(second) {
					t.Errorf("first %v, second %v", first, second)
				}
			})
		})
	}
}

func TestSession_RevokedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, b, func(cfg *Config) { cfg.CacheTTL, cfg.ErrorTTL = time.Hour, time.Hour })
		start := func(token string) context.Context {
			ctx := rpcContext(t.Context(), a, token)
			if _, err := a.Agent(ctx); err != nil {
				t.Fatal(err)
			}
			session, end := a.Session(ctx)
			t.Cleanup(end)
			return session
		}
		one, two, other := start("good"), start("good"), start("other")
		synctest.Wait()
		before := b.lookups.Load()
		b.change(func(b *agents) { delete(b.ids, "good") })
		synctest.Wait()
		for _, ctx := range []context.Context{one, two} {
			if ctx.Err() == nil || fault.KindOf(context.Cause(ctx)) != fault.Unauthenticated {
				t.Errorf("cause %v", context.Cause(ctx))
			}
		}
		if other.Err() != nil {
			t.Error("the session of another token ended")
		}
		if n := b.lookups.Load() - before; n != 2 {
			t.Errorf("%d look-ups for 2 live tokens", n)
		}
		if _, err := a.Agent(rpcContext(t.Context(), a, "good")); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("the cache survived the change: %v", err)
		}
	})
}

func TestSession_TokenNowStandsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, b, nil)
		session, end := a.Session(rpcContext(t.Context(), a, "good"))
		defer end()
		b.change(func(*agents) {})
		synctest.Wait()
		if session.Err() != nil {
			t.Fatal("ended without reason")
		}
		b.change(func(b *agents) { b.ids["good"] = 7 })
		synctest.Wait()
		if session.Err() == nil {
			t.Error("the session goes on as another agent")
		}
	})
}

// A backend that cannot answer ends nobody's session, and is asked again.
func TestSession_TroubleThenRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, b, nil)
		session, end := a.Session(rpcContext(t.Context(), a, "good"))
		defer end()
		b.change(func(b *agents) { b.trouble = errors.New("down"); delete(b.ids, "good") })
		synctest.Wait()
		if session.Err() != nil {
			t.Fatal("trouble ended a session")
		}
		b.mu.Lock()
		b.trouble = nil
		b.mu.Unlock()
		time.Sleep(recheckAgain + time.Second)
		synctest.Wait()
		if session.Err() == nil {
			t.Error("the token was not checked again")
		}
	})
}

// The change came between resolving the token and the session's start.
func TestSession_RevokedJustBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, b, nil)
		ctx := rpcContext(t.Context(), a, "good")
		if _, err := a.Agent(ctx); err != nil {
			t.Fatal(err)
		}
		b.change(func(b *agents) { delete(b.ids, "good") })
		synctest.Wait()
		session, end := a.Session(ctx)
		defer end()
		synctest.Wait()
		if session.Err() == nil {
			t.Error("the session of a revoked token goes on")
		}
	})
}

func TestSession_Ends(t *testing.T) {
	a := newAuth(t, newAgents(), nil)
	session, end := a.Session(rpcContext(t.Context(), a, "good"))
	end()
	if session.Err() == nil || len(a.live) != 0 {
		t.Errorf("session %v, %d live tokens", session.Err(), len(a.live))
	}
	if ctx, end := a.Session(t.Context()); ctx.Err() == nil {
		end()
		t.Error("a session outside of an RPC")
	}
}

func TestAgeLimit(t *testing.T) {
	tests := map[string]struct {
		age       time.Duration
		startedAt time.Duration // of the RPC, after the connection
		rand      float64
		want      time.Duration // after the connection; 0: never
	}{
		"at once":            {2 * time.Hour, 0, 0, 36 * time.Minute},
		"with jitter":        {2 * time.Hour, 0, 0.5, 36*time.Minute + 54*time.Second},
		"later, with jitter": {2 * time.Hour, 16 * time.Minute, 1, 37 * time.Minute},
		"too late":           {2 * time.Hour, 40 * time.Minute, 1, 40 * time.Minute},
		"no age":             {0, 0, 1, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuth(t, newAgents(), func(cfg *Config) {
					cfg.MaxConnectionAge, cfg.Rand = test.age, func() float64 { return test.rand }
				})
				connected := time.Now()
				time.Sleep(test.startedAt)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ctx = rpcContext(ctx, a, "good")
				rpcOf(ctx).pollsEnd = a.pollsEnd(connected, time.Now())
				limited := AgeLimit(ctx)
				if test.want == 0 {
					time.Sleep(1000 * time.Hour)
					if limited.Err() != nil {
						t.Error("ended")
					}
					return
				}
				<-limited.Done()
				if got := time.Since(connected); got != test.want {
					t.Errorf("ended after %v, want %v", got, test.want)
				}
				if ctx.Err() != nil {
					t.Error("the RPC ended too")
				}
			})
		})
	}
}

func TestAgeLimit_PollsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, newAgents(), func(cfg *Config) { cfg.MaxConnectionAge = time.Hour })
		ctx, cancel := context.WithCancel(t.Context())
		polls := NewPolls()
		on := func(polls *Polls) context.Context {
			c := rpcContext(ctx, a, "good")
			rpcOf(c).conn = newConnection(polls)
			return AgeLimit(c)
		}
		limited, gone, other, free := on(polls), on(polls), on(NewPolls()), on(nil)
		polls.End()
		synctest.Wait()
		if limited.Err() == nil || gone.Err() == nil || ctx.Err() != nil {
			t.Errorf("limited %v, RPC %v", limited.Err(), ctx.Err())
		}
		if other.Err() != nil || free.Err() != nil {
			t.Errorf("polls of other connections end: %v, %v", other.Err(), free.Err())
		}
		cancel()
		if AgeLimit(t.Context()).Err() != nil {
			t.Error("a limit outside of an RPC")
		}
	})
}
