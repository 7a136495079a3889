// Package pushes hands push events to the streams that wait for them. It listens once for all streams of a service, so that a stream
// that is busy with its own project cannot lose its event among those of all others.
package pushes

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"gitlab.com/agentk/agentk/internal/backoff"
)

var resubscribePolicy = backoff.Policy{
	Initial:    100 * time.Millisecond,
	Max:        10 * time.Second,
	Factor:     2,
	Jitter:     1,
	ResetAfter: 20 * time.Second,
}

// Source tells to which projects was pushed, by full path. The channel ends with ctx, or when events may have been missed.
type Source interface {
	Subscribe(ctx context.Context) (<-chan string, error)
}

// Hub knows who waits for pushes to which project.
type Hub struct {
	// mu guards waiting.
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]struct{} // by project path
}

// NewHub returns a Hub. It pokes while Run is running.
func NewHub() *Hub { return &Hub{waiting: map[string]map[chan struct{}]struct{}{}} }

// Join returns a channel that is poked on each push to the project with this full path. Pokes that nobody has taken yet are one. The
// caller has to leave.
func (h *Hub) Join(path string) (wake <-chan struct{}, leave func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting[path] == nil {
		h.waiting[path] = map[chan struct{}]struct{}{}
	}
	h.waiting[path][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiting[path], ch)
		if len(h.waiting[path]) == 0 {
			delete(h.waiting, path)
		}
	}
}

func (h *Hub) poke(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.waiting[path] {
		poke(ch)
	}
}

func (h *Hub) pokeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, set := range h.waiting {
		for ch := range set {
			poke(ch)
		}
	}
}

func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run passes events on until ctx ends. After a gap in the subscription everybody looks anew.
func (h *Hub) Run(ctx context.Context, source Source, log *zap.Logger) {
	retry := backoff.New(resubscribePolicy)
	for first := true; ; first = false {
		events, err := source.Subscribe(ctx)
		if err == nil {
			if !first {
				h.pokeAll()
			}
			for path := range events {
				h.poke(path)
			}
		}
		if ctx.Err() != nil {
			return
		}
		delay := retry.Next()
		if err != nil {
			log.Warn("Push events cannot be heard, trying again", zap.Duration("retry_in", delay), zap.Error(err))
		} else {
			// As at every start, once Redis has answered. What was missed is looked for anew.
			log.Info("Push events are heard from another source now", zap.Duration("retry_in", delay))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}
