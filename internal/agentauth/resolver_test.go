package agentauth

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Thousands of agents come at once: the backend gets so many questions at a time, the others wait for as long as it takes, and who gives
// up waiting leaves the queue.
func TestAgent_Queue(t *testing.T) {
	const agents, gaveUp = 1000, 10
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		b.gate = make(chan struct{})
		for i := range agents {
			b.ids[fmt.Sprint(i)] = int64(i + 1)
		}
		a := newAuth(t, b, func(cfg *Config) { cfg.CacheTTL = time.Hour })
		impatient, giveUp := context.WithCancel(t.Context())
		var served, lost atomic.Int64
		var all sync.WaitGroup
		ask := func(ctx context.Context, i int) {
			all.Go(func() {
				agent, err := a.Agent(rpcContext(ctx, a, fmt.Sprint(i)))
				switch {
				case err == nil && agent.ID == int64(i+1):
					served.Add(1)
				default:
					lost.Add(1)
				}
			})
		}
		for i := range agents - gaveUp {
			ask(t.Context(), i)
			ask(t.Context(), i) // another RPC of the same agent
		}
		synctest.Wait()
		for i := range gaveUp {
			ask(impatient, agents-gaveUp+i)
		}
		synctest.Wait()
		if n := b.lookups.Load(); n != maxLookups {
			t.Errorf("%d questions at a time, want %d", n, maxLookups)
		}
		giveUp()
		synctest.Wait()
		if lost.Load() != gaveUp {
			t.Errorf("%d have given up", lost.Load())
		}
		// An answer every 100 ms: the last one in the queue waits for longer than a look-up may take.
		for range agents {
			time.Sleep(100 * time.Millisecond)
			select {
			case b.gate <- struct{}{}:
			case <-time.After(time.Minute):
			}
		}
		all.Wait()
		if served.Load() != 2*(agents-gaveUp) || lost.Load() != gaveUp || b.lookups.Load() != agents-gaveUp {
			t.Errorf("%d served, %d lost, %d questions", served.Load(), lost.Load(), b.lookups.Load())
		}
	})
}

// A backend that answers from memory is asked by every RPC: a token that it takes back is refused with the next one.
func TestAgent_Instant(t *testing.T) {
	b := newAgents()
	b.ids["one"] = 1
	a := newAuth(t, b, func(cfg *Config) { cfg.Instant, cfg.CacheTTL = true, time.Hour })
	ctx := rpcContext(t.Context(), a, "one")
	if agent, err := a.Agent(ctx); err != nil || agent.ID != 1 {
		t.Fatalf("agent %+v, %v", agent, err)
	}
	b.mu.Lock()
	delete(b.ids, "one")
	b.mu.Unlock()
	if _, err := a.Agent(ctx); !refused(err) {
		t.Errorf("the token is gone: %v", err)
	}
	if n := b.lookups.Load(); n != 2 {
		t.Errorf("%d questions, want 2", n)
	}
}
