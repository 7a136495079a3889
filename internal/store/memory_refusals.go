package store

import (
	"context"
	"time"
)

// refusal is why something was refused, until end.
type refusal struct {
	reason string
	end    time.Time
}

// Refuse implements Refusals.
func (m *Memory) Refuse(_ context.Context, key, reason string, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.sweep(now)
	if _, known := m.refusals[key]; !known && len(m.refusals) >= maxRefusals {
		for some := range m.refusals {
			delete(m.refusals, some)
			break
		}
	}
	m.refusals[key] = refusal{reason: reason, end: now.Add(ttl)}
	return nil
}

// Refused implements Refusals.
func (m *Memory) Refused(_ context.Context, key string) (string, time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.refusals[key]
	left := known.end.Sub(m.now())
	if left <= 0 {
		return "", 0, nil
	}
	return known.reason, left, nil
}
