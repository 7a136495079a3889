package gitlabaccess

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// slots bounds the calls of each token.
type slots struct {
	// mu guards byToken, which holds the tokens with calls.
	mu      sync.Mutex
	byToken map[string]*slot
}

type slot struct {
	semaphore *semaphore.Weighted
	calls     int // waiting ones too
}

// take waits for a slot until ctx ends. The returned function gives it back.
func (s *slots) take(ctx context.Context, token string) (func(), error) {
	s.mu.Lock()
	mine := s.byToken[token]
	if mine == nil {
		mine = &slot{semaphore: semaphore.NewWeighted(callsPerToken)}
		s.byToken[token] = mine
	}
	mine.calls++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if mine.calls--; mine.calls == 0 {
			delete(s.byToken, token)
		}
	}
	if err := mine.semaphore.Acquire(ctx, 1); err != nil {
		leave()
		return nil, err
	}
	return func() {
		mine.semaphore.Release(1)
		leave()
	}, nil
}
