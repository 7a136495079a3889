package store

import (
	"context"
	"time"
)

// counter counts the admitted calls of the window that ends at end.
type counter struct {
	admitted uint32
	end      time.Time
}

// Allow implements Limits.
func (m *Memory) Allow(_ context.Context, key string, limit uint32, window time.Duration) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	c, known := m.limits[key]
	if !known || !now.Before(c.end) {
		c = counter{end: now.UTC().Truncate(window).Add(window)}
	}
	if c.admitted >= limit {
		return false, nil
	}
	if !known && len(m.limits) >= maxLimitKeys {
		m.evictLimit()
	}
	c.admitted++
	m.limits[key] = c
	return true, nil
}

// evictLimit forgets some counter. Refusing the new key instead would let a flood of made-up tokens lock out every agent.
func (m *Memory) evictLimit() {
	for key := range m.limits {
		delete(m.limits, key)
		return
	}
}
