package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// target is one side of a comparison: an API server, or the proxy in front of it.
type target struct {
	client *http.Client
	base   string
	header http.Header
}

// get performs one request and reads the whole answer.
func (t target) get(ctx context.Context, path string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.base+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header = t.header.Clone()
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return n, err
}

// loadResult is what a closed loop of clients saw.
type loadResult struct {
	rate     float64 // requests per second
	p50, p99 time.Duration
}

// load lets clients ask for one path, each as soon as it has its answer, for a while.
func (t target) load(ctx context.Context, path string, clients int, d time.Duration) (loadResult, error) {
	var mu sync.Mutex
	var all []time.Duration
	var firstErr error
	end := time.Now().Add(d)
	started := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var own []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				at := time.Now()
				_, err = t.get(ctx, path)
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			if firstErr == nil {
				firstErr = err
			}
		})
	}
	wg.Wait()
	took := time.Since(started)
	if firstErr != nil {
		return loadResult{}, firstErr
	}
	slices.Sort(all)
	return loadResult{rate: float64(len(all)) / took.Seconds(), p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

// throughput reads one large answer and returns MB/s.
func (t target) throughput(ctx context.Context, path string) (float64, error) {
	at := time.Now()
	n, err := t.get(ctx, path)
	return float64(n) / 1e6 / time.Since(at).Seconds(), err
}
