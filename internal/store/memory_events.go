package store

import "context"

// Publish implements Events.
func (m *Memory) Publish(_ context.Context, projectPath string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ch := range m.events {
		if len(ch) == cap(ch) {
			select {
			case <-ch:
				m.lost.Inc()
			default: // received meanwhile
			}
		}
		ch <- projectPath // never waits: only holders of mu send
	}
	return nil
}

// Subscribe implements Events.
func (m *Memory) Subscribe(ctx context.Context) (<-chan string, error) {
	ch := make(chan string, EventBuffer)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.events, ch)
		close(ch)
	})
	return ch, nil
}
