package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/api/agenttracker"
	"gitlab.com/agentk/agentk/internal/backoff"
)

var rewritePolicy = backoff.Policy{
	Initial:    500 * time.Millisecond,
	Max:        10 * time.Second,
	Factor:     2,
	Jitter:     0.5,
	ResetAfter: time.Minute,
}

const (
	// writers is how many agents are written anew at once.
	writers = 8
	// expiryStep is how exactly the end of a location is kept when it is written anew: those of one step are written together.
	expiryStep = 10 * time.Second
)

// Run runs the shared store and writes into it what it has missed, until ctx ends.
func (f *Fallback) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { f.catchUp(ctx) })
	err := f.shared.Run(ctx)
	wg.Wait()
	return err
}

func (f *Fallback) catchUp(ctx context.Context) {
	retry := backoff.New(rewritePolicy)
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.shared.Healed():
		case <-f.wake:
			if again != nil {
				continue // it is waited for already
			}
		case <-again:
		}
		again = nil
		before := f.fallBehind()
		err := f.rewrite(ctx)
		if err == nil {
			retry.Reset()
			f.caughtUp(before)
			f.rewrote.WithLabelValues("ok").Inc()
			continue
		}
		if ctx.Err() != nil {
			return
		}
		f.rewrote.WithLabelValues("error").Inc()
		f.log.Debug("Cannot write into the shared store what it has missed", zap.Error(err))
		again = time.After(retry.Next())
	}
}

// fallBehind begins a rewrite, caughtUp ends it unless the shared store has failed meanwhile.
func (f *Fallback) fallBehind() (owed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind = true
	return f.owed
}

func (f *Fallback) caughtUp(owed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind = f.owed != owed
}

// rewrite writes all that this process has. What changes meanwhile is written by whoever changes it; what goes meanwhile is removed
// again at the end.
func (f *Fallback) rewrite(ctx context.Context) error {
	if err := f.pay(ctx); err != nil {
		return err
	}
	connections, locations := f.local.snapshot()
	if err := f.writeAll(ctx, connections, locations); err != nil {
		return err
	}
	for _, c := range connections {
		if !f.local.hasConnection(c.key()) {
			if err := f.shared.UnregisterAgent(ctx, c.info.AgentId, c.info.ConnectionId); err != nil {
				return err
			}
		}
	}
	for _, group := range locations {
		for _, id := range group.agents {
			if !f.local.hasLocation(locationKey{agent: id, url: group.url}) {
				if err := f.shared.RemoveTunnel(ctx, id, group.url); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pay removes and tells what is owed.
func (f *Fallback) pay(ctx context.Context) error {
	for key := range drain(f, f.gone) {
		if err := f.shared.UnregisterAgent(ctx, key.agent, key.connection); err != nil {
			return fmt.Errorf("unregister agent: %w", err)
		}
		settle(f, f.gone, key)
	}
	for key := range drain(f, f.closed) {
		if err := f.shared.RemoveTunnel(ctx, key.agent, key.url); err != nil {
			return fmt.Errorf("remove location: %w", err)
		}
		settle(f, f.closed, key)
	}
	for path := range drain(f, f.pushes) {
		if err := f.shared.PublishElsewhere(ctx, path); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		settle(f, f.pushes, path)
	}
	return nil
}

// drain is a copy of what is owed, settle forgets one of it.
func drain[K comparable](f *Fallback, m map[K]struct{}) map[K]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make(map[K]struct{}, len(m))
	for key := range m {
		list[key] = struct{}{}
	}
	return list
}

func settle[K comparable](f *Fallback, m map[K]struct{}, key K) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(m, key)
}

func (f *Fallback) writeAll(ctx context.Context, connections []ownConnection, locations []ownLocations) error {
	for _, group := range locations {
		if err := f.shared.RefreshTunnels(ctx, group.url, group.ttl, group.agents...); err != nil {
			return fmt.Errorf("write locations: %w", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan ownConnection)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for c := range queue {
				if ctx.Err() != nil || !f.local.hasConnection(c.key()) {
					continue
				}
				if err := f.shared.RegisterAgent(ctx, c.info, c.ttl); err != nil {
					cancel(fmt.Errorf("write agent: %w", err))
				}
			}
		})
	}
	for _, c := range connections {
		queue <- c
	}
	close(queue)
	wg.Wait()
	return context.Cause(ctx)
}

// ownConnection is a connection of this process and how long it has to live.
type ownConnection struct {
	info *agenttracker.ConnectedAgentInfo
	ttl  time.Duration
}

func (c ownConnection) key() connectionKey {
	return connectionKey{agent: c.info.AgentId, connection: c.info.ConnectionId}
}

// ownLocations are agents with the same location that have about as long to live.
type ownLocations struct {
	url    string
	ttl    time.Duration
	agents []int64
}

// snapshot is everything in the store that has not expired.
func (m *Memory) snapshot() ([]ownConnection, []ownLocations) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var connections []ownConnection
	for _, list := range m.agents {
		for _, c := range list {
			if now.Before(c.expiry) {
				connections = append(connections, ownConnection{info: c.info, ttl: c.expiry.Sub(now)})
			}
		}
	}
	type groupKey struct {
		url  string
		step int64
	}
	groups := map[groupKey]*ownLocations{}
	for id, locations := range m.tunnels {
		for url, expiry := range locations {
			if !now.Before(expiry) {
				continue
			}
			key := groupKey{url: url, step: expiry.UnixNano() / int64(expiryStep)}
			group := groups[key]
			if group == nil {
				group = &ownLocations{url: url, ttl: expiry.Sub(now)}
				groups[key] = group
			}
			group.ttl = min(group.ttl, expiry.Sub(now))
			group.agents = append(group.agents, id)
		}
	}
	var locations []ownLocations
	for _, group := range groups {
		locations = append(locations, *group)
	}
	return connections, locations
}

func (m *Memory) hasConnection(key connectionKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.agents[key.agent][key.connection]
	return ok
}

func (m *Memory) hasLocation(key locationKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.tunnels[key.agent][key.url]
	return ok
}
