package agentauth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.com/agentk/agentk/internal/fault"
)

// board is what replicas share.
type board struct {
	mu      sync.Mutex
	trouble error
	said    map[string]string
	ends    map[string]time.Time
}

func newBoard() *board { return &board{said: map[string]string{}, ends: map[string]time.Time{}} }

func (b *board) Refuse(_ context.Context, key, reason string, ttl time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trouble != nil {
		return b.trouble
	}
	b.said[key], b.ends[key] = reason, time.Now().Add(ttl)
	return nil
}

func (b *board) Refused(_ context.Context, key string) (string, time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said[key], max(0, time.Until(b.ends[key])), b.trouble
}

// rewrite replaces all reasons.
func (b *board) rewrite(reason string, left time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key := range b.said {
		b.said[key], b.ends[key] = reason, time.Now().Add(left)
	}
}

func sharing(b *board) func(*Config) {
	return func(cfg *Config) { cfg.CacheTTL, cfg.ErrorTTL, cfg.Refusals = time.Hour, time.Minute, b }
}

// wantRefused asks about a token.
func wantRefused(t *testing.T, a *Authenticator, kind fault.Kind, text string) {
	t.Helper()
	_, err := a.Agent(rpcContext(t.Context(), a, "bad"))
	if fault.KindOf(err) != kind || err == nil || err.Error() != text {
		t.Errorf("%v %v, want %v %s", fault.KindOf(err), err, kind, text)
	}
}

// A token that one replica was told is refused costs the backend no call of the others, until the answer gets too old. It is as old for
// them as for the first.
func TestAgent_RefusalIsShared(t *testing.T) {
	for _, kind := range []fault.Kind{fault.Unauthenticated, fault.PermissionDenied, fault.NotFound} {
		synctest.Test(t, func(t *testing.T) {
			b, shared := newAgents(), newBoard()
			b.trouble = fmt.Errorf("GET agent_info: %w", fault.New(kind, fault.GitLab, "told: so"))
			first := newAuth(t, silent{b}, sharing(shared))
			if _, err := first.Agent(rpcContext(t.Context(), first, "bad")); fault.KindOf(err) != kind {
				t.Error(err)
			}
			for key, reason := range shared.said {
				if strings.Contains(key+reason, "bad") || strings.Contains(reason, "GET") {
					t.Errorf("shared: %s %s", key, reason)
				}
			}
			time.Sleep(40 * time.Second)
			second := newAuth(t, silent{b}, sharing(shared))
			wantRefused(t, second, kind, "told: so")
			wantRefused(t, second, kind, "told: so")
			if n := b.lookups.Load(); n != 1 {
				t.Errorf("%d questions, want 1", n)
			}
			b.trouble = nil
			b.ids["bad"] = 3
			time.Sleep(21 * time.Second)
			if agent, err := second.Agent(rpcContext(t.Context(), second, "bad")); err != nil || agent.ID != 3 {
				t.Errorf("a minute after the refusal: %v %v", agent, err)
			}
		})
	}
}

// Nothing but refusals is shared.
func TestAgent_TroubleIsNotShared(t *testing.T) {
	b, shared := newAgents(), newBoard()
	b.trouble = fault.New(fault.Unavailable, fault.GitLab, "unavailable")
	a := newAuth(t, silent{b}, sharing(shared))
	for range 2 {
		wantRefused(t, a, fault.Unavailable, "unavailable")
	}
	b.trouble = nil
	if _, err := a.Agent(rpcContext(t.Context(), a, "good")); err != nil {
		t.Error(err)
	}
	if len(shared.said) > 0 {
		t.Errorf("shared: %v", shared.said)
	}
}

// What cannot be shared, or not be understood, or says that it holds for too long, leaves every replica with its own answers.
func TestAgent_SharedTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, shared := newAgents(), newBoard()
		shared.trouble = errors.New("redis: down")
		wantRefused(t, newAuth(t, silent{b}, sharing(shared)), fault.Unauthenticated, "unauthenticated")
		shared.trouble = nil
		wantRefused(t, newAuth(t, silent{b}, sharing(shared)), fault.Unauthenticated, "unauthenticated")
		for i, reason := range []string{"", "teapot: no", "unavailable: no"} {
			shared.rewrite(reason, time.Hour)
			wantRefused(t, newAuth(t, silent{b}, sharing(shared)), fault.Unauthenticated, "unauthenticated")
			if n := b.lookups.Load(); n != int64(i+3) {
				t.Errorf("%q: %d questions", reason, n)
			}
		}
		shared.rewrite("permission denied: no", time.Hour)
		a := newAuth(t, silent{b}, sharing(shared))
		wantRefused(t, a, fault.PermissionDenied, "no")
		shared.rewrite("", 0)
		time.Sleep(time.Minute + time.Second)
		wantRefused(t, a, fault.Unauthenticated, "unauthenticated")
	})
}

// Whoever asks anew wants the answer of the backend.
func TestRenew_DoesNotBelieveTheOthers(t *testing.T) {
	b, shared := newAgents(), newBoard()
	a := newAuth(t, silent{b}, sharing(shared))
	wantRefused(t, a, fault.Unauthenticated, "unauthenticated")
	b.ids["bad"] = 3
	if agent, err := a.agents.renew(t.Context(), "bad", keyOf("bad")); err != nil || agent.ID != 3 {
		t.Error(agent, err)
	}
}

// No caches, nothing shared; and no sharing where changes are told.
func TestRefusals_Off(t *testing.T) {
	b, shared := newAgents(), newBoard()
	a := newAuth(t, silent{b}, func(cfg *Config) { cfg.ErrorTTL, cfg.Refusals = time.Minute, shared })
	for range 2 {
		wantRefused(t, a, fault.Unauthenticated, "unauthenticated")
	}
	if n := b.lookups.Load(); n != 2 || len(shared.said) > 0 {
		t.Errorf("%d questions, shared: %v", n, shared.said)
	}
	if _, err := New(Config{Backend: b, Refusals: shared}); err == nil {
		t.Error("a backend that tells changes")
	}
}
