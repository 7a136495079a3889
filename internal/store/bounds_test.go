package store

import (
	"fmt"
	"testing"
	"time"

	"gitlab.com/agentk/agentk/api/agenttracker"
)

// TestMemory_KeepsNothingForever floods a store and looks inside after everything has expired.
func TestMemory_KeepsNothingForever(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	m := NewMemory(MemoryConfig{Now: func() time.Time { return now }})
	ctx := t.Context()
	for i := range int64(2000) {
		info := &agenttracker.ConnectedAgentInfo{AgentId: i, ConnectionId: i, ProjectId: i}
		if err := m.RegisterAgent(ctx, info, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := m.AddTunnel(ctx, i, "grpc://a", time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Allow(ctx, fmt.Sprint(i), 1, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := m.Refuse(ctx, fmt.Sprint(i), "no", time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(LastSeenFor + time.Hour)
	if err := m.UnregisterAgent(ctx, 0, 0); err != nil {
		t.Fatal(err)
	}
	a, p, s, u, l, r := len(m.agents), len(m.projects), m.seen.order.Len(), len(m.tunnels), len(m.limits), len(m.refusals)
	if a+p+s+u+l+r != 0 {
		t.Errorf("still there: %d agents, %d projects, %d sightings, %d tunnels, %d limits, %d refusals", a, p, s, u, l, r)
	}
}

func TestMemory_MadeUpTokensAreBounded(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	m := NewMemory(MemoryConfig{Now: func() time.Time { return now }})
	for i := range maxLimitKeys + 100 {
		if ok, err := m.Allow(t.Context(), fmt.Sprint(i), 1, time.Minute); !ok || err != nil {
			t.Fatalf("key %d: %t %v", i, ok, err)
		}
	}
	for i := range maxRefusals + 100 {
		if err := m.Refuse(t.Context(), fmt.Sprint(i), "no", time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.limits) > maxLimitKeys || len(m.refusals) > maxRefusals {
		t.Errorf("%d counters, %d refusals", len(m.limits), len(m.refusals))
	}
}

func TestLastSeen_OldestGivesWay(t *testing.T) {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	l := newLastSeen(3)
	for _, id := range []int64{1, 2, 3, 1, 4} {
		now = now.Add(time.Second)
		l.mark(id, now)
	}
	for id, want := range map[int64]bool{1: true, 2: false, 3: true, 4: true} {
		if _, ok := l.at(id); ok != want {
			t.Errorf("agent %d: %t, want %t", id, ok, want)
		}
	}
}
