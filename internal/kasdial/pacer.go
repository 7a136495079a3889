package kasdial

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

const (
	minFirstRetry = 20 * time.Millisecond
	maxFirstRetry = 250 * time.Millisecond
	// afterAnswer is the mean of what is put before an attempt when the one before cost somebody more than a refused connection, half of it
	// at least: a reverse proxy whose kas is gone has made a TLS handshake and an answer for it.
	afterAnswer = time.Second
)

// pacer delays the first attempt after a connection was lost, and those after an attempt that was answered. What gRPC itself waits between
// attempts comes on top.
type pacer struct {
	// mu guards what the last attempt to dial an address came to. No entry: there was none, or its connection was refused.
	mu   sync.Mutex
	last map[string]outcome
}

type outcome uint8

const (
	dialled  outcome = iota + 1 // the next attempt means that the connection was lost
	answered                    // by something that did not let us in, or by nobody, which is unknown
)

// wait waits before an attempt to dial addr.
func (p *pacer) wait(ctx context.Context, addr string) error {
	p.mu.Lock()
	last := p.last[addr]
	delete(p.last, addr)
	p.mu.Unlock()
	var delay time.Duration
	switch last {
	case dialled:
		delay = minFirstRetry + rand.N(maxFirstRetry-minFirstRetry)
	case answered:
		delay = afterAnswer/2 + rand.N(afterAnswer)
	default:
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended notes how an attempt to dial addr ended.
func (p *pacer) ended(addr string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = make(map[string]outcome)
	}
	switch {
	case err == nil:
		p.last[addr] = dialled
	case isAnswer(err):
		p.last[addr] = answered
	}
}

// isAnswer says whether an attempt failed by more than a refused connection, which costs nobody anything and is all that is left of a kas
// that is being restarted.
func isAnswer(err error) bool {
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, context.Canceled)
}
