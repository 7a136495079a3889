package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// sustained is a load as high as it gets for a while, all of it through one agent's token. Nothing may be lost.
func sustained(ctx context.Context, st *stage) ([]row, error) {
	s, err := st.plain(ctx)
	if err != nil {
		return nil, err
	}
	requests, failed, err := s.fakeLine.sustain(ctx, manyClients, st.sustained)
	if err != nil {
		return nil, err
	}
	return []row{
		figure("sustained_1_agent", "failed", nil, []float64{float64(failed)}, most(plain, 0)),
		figure("sustained_1_agent_rps", "req/s", nil, []float64{float64(requests) / st.sustained.Seconds()}, noGoal()),
	}, nil
}

// sustain lets clients ask for a while, each on a connection of its own and on a new one after a failure. It counts what was answered and
// what was not; nothing answered is an error.
func (t target) sustain(ctx context.Context, clients int, d time.Duration) (answered, failed int64, err error) {
	var good, bad atomic.Int64
	var last atomic.Pointer[error]
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				n, err := t.askUntil(ctx, end, d)
				good.Add(n)
				if err != nil {
					bad.Add(1)
					last.Store(&err)
					time.Sleep(50 * time.Millisecond) // a server that refuses is not asked ever faster
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	if good.Load() == 0 {
		return 0, 0, fmt.Errorf("nothing was answered: %w", *last.Load())
	}
	return good.Load(), bad.Load(), nil
}

// askUntil asks on one connection until the end or the first failure.
func (t target) askUntil(ctx context.Context, end time.Time, d time.Duration) (answered int64, err error) {
	w, err := t.wire(ctx, smallPath, d)
	if err != nil {
		return 0, err
	}
	defer w.close()
	for time.Now().Before(end) {
		if _, err := w.get(); err != nil {
			return answered, err
		}
		answered++
	}
	return answered, nil
}
