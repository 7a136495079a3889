package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// target is one side of a comparison: an API server, or the proxy in front of it.
type target struct {
	client *http.Client
	base   string
	header http.Header
	// authority is the file of the certificate authority that the client trusts.
	authority string
}

// host is host:port of it.
func (t target) host() (string, error) {
	u, err := url.Parse(t.base)
	if err != nil {
		return "", err
	}
	return u.Host, nil
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
	requests int
	bytes    int64
	took     time.Duration
	p50, p99 time.Duration
}

func (r loadResult) rate() float64 { return float64(r.requests) / r.took.Seconds() }

// speed is in MB/s.
func (r loadResult) speed() float64 { return float64(r.bytes) / 1e6 / r.took.Seconds() }

// client is one of a closed loop.
type client struct {
	wire  *wire
	took  []time.Duration
	bytes int64
	err   error
}

// run asks, each time as soon as there was an answer, until the end; at least once.
func (c *client) run(end time.Time) {
	at := time.Now()
	for c.err == nil {
		var n int64
		n, c.err = c.wire.get()
		now := time.Now()
		c.took, c.bytes = append(c.took, now.Sub(at)), c.bytes+n
		if now.After(end) {
			return
		}
		at = now
	}
}

// load lets clients ask for one path, each as soon as it has its answer, for a while. Each has a connection of its own, which is open,
// and was asked on once, before the clock starts.
func (t target) load(ctx context.Context, path string, clients int, d time.Duration) (loadResult, error) {
	all := make([]client, clients)
	each := func(do func(c *client)) {
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { do(&all[i]) })
		}
		wg.Wait()
	}
	each(func(c *client) {
		if c.wire, c.err = t.wire(ctx, path, d); c.err == nil {
			_, c.err = c.wire.get()
		}
		c.took = make([]time.Duration, 0, 1<<14)
	})
	started := time.Now()
	each(func(c *client) { c.run(started.Add(d)) })
	r := loadResult{took: time.Since(started)}
	var times []time.Duration
	var err error
	for i := range all {
		c := &all[i]
		if c.wire != nil {
			c.wire.close()
		}
		if err == nil {
			err = c.err
		}
		times, r.bytes = append(times, c.took...), r.bytes+c.bytes
	}
	if err != nil {
		return loadResult{}, fmt.Errorf("GET %s: %w", path, err)
	}
	slices.Sort(times)
	r.requests, r.p50, r.p99 = len(times), times[len(times)/2], times[len(times)*99/100]
	return r, nil
}
