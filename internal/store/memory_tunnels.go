package store

import (
	"context"
	"slices"
	"time"
)

// watcher holds one list: a newer one replaces what was not received yet.
type watcher struct {
	ch chan []string
}

func (w *watcher) offer(locations []string) {
	select {
	case <-w.ch:
	default:
	}
	w.ch <- locations
}

// AddTunnel implements Tunnels.
func (m *Memory) AddTunnel(ctx context.Context, agentID int64, url string, ttl time.Duration) error {
	return m.RefreshTunnels(ctx, url, ttl, agentID)
}

// RefreshTunnels implements Tunnels.
func (m *Memory) RefreshTunnels(_ context.Context, url string, ttl time.Duration, agentIDs ...int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	for _, id := range agentIDs {
		locations := m.tunnels[id]
		if locations == nil {
			locations = map[string]time.Time{}
			m.tunnels[id] = locations
		}
		old, known := locations[url]
		locations[url] = now.Add(ttl)
		m.seen.mark(id, now)
		if !known || !now.Before(old) {
			m.notify(id, now)
		}
	}
	return nil
}

// RemoveTunnel implements Tunnels.
func (m *Memory) RemoveTunnel(_ context.Context, agentID int64, url string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	locations := m.tunnels[agentID]
	if _, ok := locations[url]; !ok {
		return nil
	}
	delete(locations, url)
	if len(locations) == 0 {
		delete(m.tunnels, agentID)
	}
	m.seen.mark(agentID, now)
	m.notify(agentID, now)
	return nil
}

// Tunnels implements Tunnels.
func (m *Memory) Tunnels(_ context.Context, agentID int64) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.locations(agentID, m.now()), nil
}

// Watch implements Tunnels. That a location has expired is told when the store is next written to.
func (m *Memory) Watch(ctx context.Context, agentID int64) <-chan []string {
	w := &watcher{ch: make(chan []string, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers[agentID] == nil {
		m.watchers[agentID] = map[*watcher]struct{}{}
	}
	m.watchers[agentID][w] = struct{}{}
	w.offer(m.locations(agentID, m.now()))
	context.AfterFunc(ctx, func() { m.unwatch(agentID, w) })
	return w.ch
}

func (m *Memory) unwatch(agentID int64, w *watcher) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watchers[agentID], w)
	if len(m.watchers[agentID]) == 0 {
		delete(m.watchers, agentID)
	}
	close(w.ch)
}

func (m *Memory) sweepTunnels(now time.Time) {
	for id, locations := range m.tunnels {
		changed := false
		for url, expiry := range locations {
			if !now.Before(expiry) {
				delete(locations, url)
				changed = true
			}
		}
		if len(locations) == 0 {
			delete(m.tunnels, id)
		}
		if changed {
			m.notify(id, now)
		}
	}
}

// notify offers the locations of an agent to its watchers. mu is held; offering never waits, as only holders of mu send.
func (m *Memory) notify(agentID int64, now time.Time) {
	if len(m.watchers[agentID]) == 0 {
		return
	}
	for w := range m.watchers[agentID] {
		w.offer(m.locations(agentID, now))
	}
}

func (m *Memory) locations(agentID int64, now time.Time) []string {
	var urls []string
	for url, expiry := range m.tunnels[agentID] {
		if now.Before(expiry) {
			urls = append(urls, url)
		}
	}
	slices.Sort(urls)
	return urls
}
