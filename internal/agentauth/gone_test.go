package agentauth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.com/agentk/agentk/internal/fault"
)

// goneFixture is an Authenticator that asks every minute, with sessions of agent 7 under two tokens and of agent 8 under one. It
// returns who is gone, and a function that begins a session.
func goneFixture(t *testing.T, b *agents) (gone *[]int64, begin func(token string) context.Context) {
	t.Helper()
	b.ids = map[string]int64{"first": 7, "second": 7, "third": 8}
	gone = new([]int64)
	a := newAuth(t, silent{b}, func(c *Config) {
		c.CacheTTL, c.ErrorTTL, c.RefreshPeriod = time.Minute, time.Minute, time.Minute
		c.Gone = func(_ context.Context, agentID int64) { *gone = append(*gone, agentID) }
	})
	begin = func(token string) context.Context {
		t.Helper()
		ctx := rpcContext(t.Context(), a, token)
		if _, err := a.Agent(ctx); err != nil {
			t.Fatal(err)
		}
		session, end := a.Session(ctx)
		t.Cleanup(end)
		return session
	}
	begin("third")
	return gone, begin
}

// An agent is gone when the last of its tokens is refused, not when the other one is, and not when the backend is in trouble.
func TestGone_LastTokenIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		gone, begin := goneFixture(t, b)
		begin("first")
		begin("second")
		for _, step := range []struct {
			change func(b *agents)
			want   []int64
		}{
			{func(b *agents) { b.trouble = fault.New(fault.Unavailable, fault.GitLab, "unavailable") }, nil},
			{func(b *agents) { b.trouble = nil; delete(b.ids, "first") }, nil},
			{func(b *agents) { delete(b.ids, "second") }, []int64{7}},
			{func(b *agents) { b.ids["third"] = 9 }, []int64{7, 8}},
		} {
			b.set(step.change)
			time.Sleep(5 * time.Minute)
			synctest.Wait()
			if diff := cmp.Diff(step.want, *gone); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// An agent that comes back with its new token was not gone.
func TestGone_TokenIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAgents()
		gone, begin := goneFixture(t, b)
		old := begin("first")
		b.set(func(b *agents) { delete(b.ids, "first") })
		<-old.Done()
		time.Sleep(time.Second)
		begin("second")
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(*gone) > 0 {
			t.Errorf("gone: %v", *gone)
		}
	})
}
