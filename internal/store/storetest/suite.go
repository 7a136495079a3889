// Package storetest is the contract of package store as a test suite. Every implementation runs it, so that kas behaves the same
// with and without replicas.
package storetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/internal/store"
)

// Subject is a store under test.
type Subject struct {
	Store store.Store
	// Now and Advance are its clock. Advance also takes effect on what has been stored before.
	Now     func() time.Time
	Advance func(d time.Duration)
}

// ttl of everything the suite stores.
const ttl = 5 * time.Minute

// patience is how long the suite waits for what must happen at once.
const patience = time.Minute

// Run runs the suite. Open returns an empty store; it is called once per test.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	tests := []struct {
		name string
		run  func(t *testing.T, s Subject)
	}{
		{"agents are listed by agent and by project", agentsListed},
		{"an agent expires", agentExpires},
		{"registering again keeps connected_at and prolongs", agentAgain},
		{"registering again moves to the new project", agentMoves},
		{"unregistering forgets one connection", agentUnregisters},
		{"connections of one agent are bounded", agentBound},
		{"agents are counted per version", agentVersions},
		{"last seen outlives the connection", lastSeen},
		{"last seen is now while a tunnel is there", lastSeenTunnel},
		{"tunnels are added, refreshed, removed", tunnels},
		{"a tunnel expires", tunnelExpires},
		{"watch sees every change, the newest last", watch},
		{"watch ends with its context", watchEnds},
		{"events reach every subscriber", events},
		{"a slow subscriber loses the oldest", eventsSlow},
		{"a subscription ends with its context", eventsEnd},
		{"a limit counts admitted calls per window", limit},
		{"limits have their own keys", limitKeys},
		{"a refusal is known until it ends", refusals},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func info(s Subject, agent, connection, project int64, version string) *agenttracker.ConnectedAgentInfo {
	return &agenttracker.ConnectedAgentInfo{
		AgentMeta:    &entity.AgentMeta{Version: version},
		ConnectedAt:  timestamppb.New(s.Now()),
		ConnectionId: connection,
		AgentId:      agent,
		ProjectId:    project,
	}
}

func register(t *testing.T, s Subject, i *agenttracker.ConnectedAgentInfo) {
	t.Helper()
	must(t, s.Store.RegisterAgent(t.Context(), i, ttl))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connections are the sorted connection ids of a list.
func connections(t *testing.T, list []*agenttracker.ConnectedAgentInfo, err error) []int64 {
	t.Helper()
	must(t, err)
	var ids []int64
	for _, i := range list {
		ids = append(ids, i.ConnectionId)
	}
	slices.Sort(ids)
	return ids
}

func same[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// receive takes the next value; ok is false if the channel was closed.
func receive[T any](t *testing.T, ch <-chan T) (T, bool) {
	t.Helper()
	select {
	case v, ok := <-ch:
		return v, ok
	case <-time.After(patience):
		t.Fatal("nothing was received")
		panic("unreachable")
	}
}

// receiveUntil skips what is older than the wanted list: watchers may see changes one by one or together.
func receiveUntil(t *testing.T, ch <-chan []string, want []string) {
	t.Helper()
	for {
		got, ok := receive(t, ch)
		if !ok {
			t.Fatalf("closed before %v was seen", want)
		}
		if slices.Equal(got, want) {
			return
		}
	}
}

func receiveEnd[T any](t *testing.T, ch <-chan T) {
	t.Helper()
	for {
		if _, ok := receive(t, ch); !ok {
			return
		}
	}
}

func cancelable(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}
