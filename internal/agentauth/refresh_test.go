package agentauth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// silent is a backend that tells no changes, as GitLab.
type silent struct{ *agents }

func (silent) Changed() <-chan struct{} { return nil }

func (b *agents) set(f func(b *agents)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b)
}

// liveSession resolves a token and begins a session with it.
func liveSession(t *testing.T, a *Authenticator) context.Context {
	t.Helper()
	ctx := rpcContext(t.Context(), a, "good")
	if _, err := a.Agent(ctx); err != nil {
		t.Fatal(err)
	}
	ctx, end := a.Session(ctx)
	t.Cleanup(end)
	return ctx
}

func TestRefresh_AsksAboutLiveTokens(t *testing.T) {
	const period = 5 * time.Minute
	for name, ttl := range map[string]time.Duration{"cached": period, "cached for long": time.Hour, "not cached": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newAgents()
				a := newAuth(t, silent{b}, func(c *Config) { c.CacheTTL, c.ErrorTTL, c.RefreshPeriod = ttl, time.Minute, period })
				session := liveSession(t, a)
				if _, err := a.Agent(rpcContext(t.Context(), a, "other")); err != nil { // nobody uses it any more
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				// Every 5 minutes at the latest, and not much more often.
				if n := b.lookups.Load() - 2; n < 12 || n > 17 {
					t.Errorf("asked %d times in an hour", n)
				}
				if session.Err() != nil {
					t.Error(context.Cause(session))
				}
			})
		})
	}
}

func TestRefresh_RevokedTokenIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, silent{b}, func(c *Config) {
			c.CacheTTL, c.ErrorTTL, c.RefreshPeriod = 5*time.Minute, time.Minute, 5*time.Minute
		})
		session := liveSession(t, a)
		time.Sleep(time.Minute)
		b.set(func(b *agents) { delete(b.ids, "good") })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if fault.KindOf(context.Cause(session)) != fault.Unauthenticated {
			t.Errorf("cause %v", context.Cause(session))
		}
		if _, err := a.Agent(rpcContext(t.Context(), a, "good")); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("a new RPC: %v", err)
		}
	})
}

// A backend that is down or hangs neither ends sessions nor delays what is cached.
func TestRefresh_BackendInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		a := newAuth(t, silent{b}, func(c *Config) {
			c.CacheTTL, c.ErrorTTL, c.RefreshPeriod = time.Hour, time.Minute, 5*time.Minute
		})
		session := liveSession(t, a)
		b.set(func(b *agents) { b.trouble = fault.New(fault.Unavailable, fault.GitLab, "unavailable") })
		time.Sleep(10 * time.Minute)
		b.set(func(b *agents) { b.trouble, b.gate = nil, make(chan struct{}) })
		time.Sleep(10 * time.Minute)
		before := time.Now()
		if _, err := a.Agent(rpcContext(t.Context(), a, "good")); err != nil || time.Since(before) > 0 {
			t.Errorf("%v after %s", err, time.Since(before))
		}
		if session.Err() != nil {
			t.Error(context.Cause(session))
		}
		close(b.gate)
		asked := b.lookups.Load()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if b.lookups.Load() == asked {
			t.Error("not asked again once it answers")
		}
	})
}
