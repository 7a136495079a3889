package storetest

import (
	"testing"
	"time"

	"gitlab.com/agentk/agentk/internal/store"
)

func agentsListed(t *testing.T, s Subject) {
	ctx := t.Context()
	register(t, s, info(s, 1, 11, 100, "v1"))
	register(t, s, info(s, 1, 12, 100, "v1"))
	register(t, s, info(s, 2, 21, 100, "v1"))
	register(t, s, info(s, 3, 31, 300, "v1"))
	register(t, s, info(s, 4, 31, 300, "v1")) // the same connection id as another agent's

	list, err := s.Store.AgentsByID(ctx, 1, 3, 99, 1)
	same(t, "by ids 1, 3, 99, 1", connections(t, list, err), []int64{11, 12, 31})
	list, err = s.Store.AgentsByID(ctx)
	same(t, "by no id", connections(t, list, err), nil)
	list, err = s.Store.AgentsByProject(ctx, 100, 99)
	same(t, "by projects 100, 99", connections(t, list, err), []int64{11, 12, 21})
	list, err = s.Store.AgentsByProject(ctx, 300, 300)
	same(t, "by project 300 twice", connections(t, list, err), []int64{31, 31})
	list, err = s.Store.AllAgents(ctx)
	same(t, "all", connections(t, list, err), []int64{11, 12, 21, 31, 31})

	list, err = s.Store.AgentsByID(ctx, 2)
	must(t, err)
	got := list[0]
	if got.AgentMeta.GetVersion() != "v1" || got.ProjectId != 100 || got.AgentId != 2 || !got.ConnectedAt.AsTime().Equal(s.Now()) {
		t.Errorf("stored as %v", got)
	}
}

func agentExpires(t *testing.T, s Subject) {
	register(t, s, info(s, 1, 11, 100, "v1"))
	s.Advance(ttl - time.Second)
	list, err := s.Store.AgentsByID(t.Context(), 1)
	same(t, "before its end", connections(t, list, err), []int64{11})
	s.Advance(2 * time.Second)
	list, err = s.Store.AgentsByID(t.Context(), 1)
	same(t, "by id", connections(t, list, err), nil)
	list, err = s.Store.AgentsByProject(t.Context(), 100)
	same(t, "by project", connections(t, list, err), nil)
	list, err = s.Store.AllAgents(t.Context())
	same(t, "all", connections(t, list, err), nil)
	register(t, s, info(s, 1, 11, 100, "v1"))
	list, err = s.Store.AgentsByID(t.Context(), 1)
	must(t, err)
	if len(list) != 1 || !list[0].ConnectedAt.AsTime().Equal(s.Now()) {
		t.Errorf("an expired connection that comes back is a new one; got %v", list)
	}
}

func agentAgain(t *testing.T, s Subject) {
	first := s.Now()
	register(t, s, info(s, 1, 11, 100, "v1"))
	s.Advance(ttl - time.Minute)
	register(t, s, info(s, 1, 11, 100, "v2"))
	s.Advance(ttl - time.Minute)
	list, err := s.Store.AgentsByID(t.Context(), 1)
	must(t, err)
	if len(list) != 1 || list[0].AgentMeta.GetVersion() != "v2" || !list[0].ConnectedAt.AsTime().Equal(first) {
		t.Errorf("got %v, want v2 connected at %v", list, first)
	}
}

func agentMoves(t *testing.T, s Subject) {
	register(t, s, info(s, 1, 11, 100, "v1"))
	register(t, s, info(s, 1, 11, 200, "v1"))
	list, err := s.Store.AgentsByProject(t.Context(), 100)
	same(t, "the old project", connections(t, list, err), nil)
	list, err = s.Store.AgentsByProject(t.Context(), 200)
	same(t, "the new project", connections(t, list, err), []int64{11})
}

func agentUnregisters(t *testing.T, s Subject) {
	register(t, s, info(s, 1, 11, 100, "v1"))
	register(t, s, info(s, 1, 12, 100, "v1"))
	must(t, s.Store.UnregisterAgent(t.Context(), 1, 11))
	must(t, s.Store.UnregisterAgent(t.Context(), 1, 11))
	must(t, s.Store.UnregisterAgent(t.Context(), 2, 12))
	list, err := s.Store.AgentsByID(t.Context(), 1)
	same(t, "by id", connections(t, list, err), []int64{12})
	list, err = s.Store.AgentsByProject(t.Context(), 100)
	same(t, "by project", connections(t, list, err), []int64{12})
}

func agentBound(t *testing.T, s Subject) {
	register(t, s, info(s, 1, 1, 100, "v1"))
	s.Advance(time.Second)
	for i := range int64(store.MaxConnectionsPerAgent) {
		register(t, s, info(s, 1, i+2, 100, "v1"))
	}
	list, err := s.Store.AgentsByID(t.Context(), 1)
	ids := connections(t, list, err)
	if len(ids) != store.MaxConnectionsPerAgent || ids[0] != 2 {
		t.Errorf("%d connections from %d on, want %d from 2 on", len(ids), ids[0], store.MaxConnectionsPerAgent)
	}
}

func agentVersions(t *testing.T, s Subject) {
	register(t, s, info(s, 1, 11, 100, "v1"))
	register(t, s, info(s, 1, 12, 100, "v1"))
	register(t, s, info(s, 1, 13, 100, "v2"))
	register(t, s, info(s, 2, 21, 100, "v1"))
	counts, err := s.Store.CountByVersion(t.Context())
	must(t, err)
	if len(counts) != 2 || counts["v1"] != 2 || counts["v2"] != 1 {
		t.Errorf("counts are %v, want v1:2 v2:1", counts)
	}
	s.Advance(ttl + time.Second)
	counts, err = s.Store.CountByVersion(t.Context())
	must(t, err)
	if len(counts) != 0 {
		t.Errorf("after the end: %v", counts)
	}
}

func lastSeen(t *testing.T, s Subject) {
	seenAt := func(want time.Time, wantOK bool) {
		t.Helper()
		at, ok, err := s.Store.LastSeen(t.Context(), 1)
		must(t, err)
		if ok != wantOK || ok && !at.Equal(want) {
			t.Errorf("last seen %v %t, want %v %t", at, ok, want, wantOK)
		}
	}
	seenAt(time.Time{}, false)
	registered := s.Now()
	register(t, s, info(s, 1, 11, 100, "v1"))
	s.Advance(ttl + 15*time.Minute)
	register(t, s, info(s, 2, 21, 100, "v1"))
	seenAt(registered, true)
	register(t, s, info(s, 1, 11, 100, "v1"))
	s.Advance(time.Minute)
	must(t, s.Store.UnregisterAgent(t.Context(), 1, 11))
	seenAt(s.Now(), true)
	s.Advance(store.LastSeenFor + time.Minute)
	seenAt(time.Time{}, false)
}

func lastSeenTunnel(t *testing.T, s Subject) {
	added := s.Now()
	must(t, s.Store.AddTunnel(t.Context(), 1, "grpc://a", ttl))
	for _, step := range []struct {
		advance time.Duration
		want    time.Time
	}{{ttl - time.Second, added.Add(ttl - time.Second)}, {2 * time.Second, added}} {
		s.Advance(step.advance)
		at, ok, err := s.Store.LastSeen(t.Context(), 1)
		must(t, err)
		if !ok || !at.Equal(step.want) {
			t.Errorf("last seen %v %t, want %v", at, ok, step.want)
		}
	}
	must(t, s.Store.AddTunnel(t.Context(), 1, "grpc://a", ttl))
	s.Advance(time.Minute)
	must(t, s.Store.RemoveTunnel(t.Context(), 1, "grpc://a"))
	removed := s.Now()
	s.Advance(time.Minute)
	at, ok, err := s.Store.LastSeen(t.Context(), 1)
	must(t, err)
	if !ok || !at.Equal(removed) {
		t.Errorf("last seen %v %t, want the moment its tunnel went, %v", at, ok, removed)
	}
}
