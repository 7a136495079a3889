package kasdial

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	minFirstRetry = 20 * time.Millisecond
	maxFirstRetry = 250 * time.Millisecond
)

// pacer delays the first attempt after a connection was lost. Later ones are delayed by gRPC.
type pacer struct {
	// mu guards the addresses whose last attempt succeeded: the next one means that the connection was lost.
	mu   sync.Mutex
	open map[string]struct{}
}

// wait waits before an attempt to dial addr.
func (p *pacer) wait(ctx context.Context, addr string) error {
	p.mu.Lock()
	_, lost := p.open[addr]
	delete(p.open, addr)
	p.mu.Unlock()
	if !lost {
		return nil
	}
	timer := time.NewTimer(minFirstRetry + rand.N(maxFirstRetry-minFirstRetry))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// succeeded notes that addr was dialled.
func (p *pacer) succeeded(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = make(map[string]struct{})
	}
	p.open[addr] = struct{}{}
}
