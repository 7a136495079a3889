package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// looks is how many samples a footprint is the median of, lookEvery the pause between them.
	looks     = 5
	lookEvery = time.Second
	// steady is how far the samples may lie apart, as a part of the largest, for a process to count as settled.
	steady = 0.01
	// pageLimit bounds one question to a daemon; a heap profile of thousands of agents takes a moment.
	pageLimit = 30 * time.Second
)

// watched is a process of ours that serves metrics and profiles.
type watched struct {
	name string
	pid  int
	page func(ctx context.Context, path string) (string, error)
	// kept is how many goroutines it may keep for what it was asked, by design and for some minutes.
	kept float64
}

// footprint is what a process takes, in KiB, right after a garbage collection.
type footprint struct {
	rss, heap, stack float64
	goroutines       float64
}

// look collects the garbage of a process and then measures it.
func (w watched) look(ctx context.Context) (footprint, error) {
	if _, err := w.page(ctx, "/debug/pprof/heap?gc=1"); err != nil {
		return footprint{}, fmt.Errorf("%s: collect garbage: %w", w.name, err)
	}
	page, err := w.page(ctx, "/metrics")
	if err != nil {
		return footprint{}, fmt.Errorf("metrics of %s: %w", w.name, err)
	}
	var f footprint
	for name, into := range map[string]*float64{
		"go_memstats_heap_alloc_bytes": &f.heap, "go_memstats_stack_inuse_bytes": &f.stack, "go_goroutines": &f.goroutines,
	} {
		if *into, err = sample(page, name); err != nil {
			return footprint{}, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	f.heap, f.stack = f.heap/1024, f.stack/1024
	resident, err := memoryOf(w.pid, "VmRSS")
	f.rss = resident * 1024
	return f, err
}

// rest waits until the memory of a process does not move any more, at most for limit, and returns the median of the last samples. The
// runtime returns what it does not need to the kernel in the background.
func (w watched) rest(ctx context.Context, limit time.Duration) (footprint, error) {
	deadline := time.Now().Add(limit)
	var last []footprint
	for {
		f, err := w.look(ctx)
		if err != nil {
			return footprint{}, err
		}
		last = append(last, f)
		last = last[max(0, len(last)-looks):]
		if len(last) == looks && (flat(last) || time.Now().After(deadline)) {
			return middle(last), nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			return footprint{}, err
		}
	}
}

// flat says whether the resident memory of some samples lies close together.
func flat(all []footprint) bool {
	low, high := all[0].rss, all[0].rss
	for _, f := range all {
		low, high = min(low, f.rss), max(high, f.rss)
	}
	return high-low <= steady*high
}

// middle is the median of each figure.
func middle(all []footprint) footprint {
	of := func(figure func(footprint) float64) float64 {
		var values []float64
		for _, f := range all {
			values = append(values, figure(f))
		}
		return median(values)
	}
	return footprint{
		rss:        of(func(f footprint) float64 { return f.rss }),
		heap:       of(func(f footprint) float64 { return f.heap }),
		stack:      of(func(f footprint) float64 { return f.stack }),
		goroutines: of(func(f footprint) float64 { return f.goroutines }),
	}
}

// per is what each of n things adds to a footprint without them.
func (f footprint) per(n int, without footprint) footprint {
	return footprint{
		rss: (f.rss - without.rss) / float64(n), heap: (f.heap - without.heap) / float64(n), stack: (f.stack - without.stack) / float64(n),
		goroutines: (f.goroutines - without.goroutines) / float64(n),
	}
}

// calm waits until a process has as few goroutines as it had; one that leaks has failed.
func (w watched) calm(ctx context.Context, before footprint) error {
	const slack = 10
	deadline := time.Now().Add(settleLimit)
	for {
		now, err := w.look(ctx)
		if err != nil {
			return err
		}
		if now.goroutines <= before.goroutines+w.kept+slack {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("leak: %s had %g goroutines and has %g", w.name, before.goroutines, now.goroutines)
		}
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// sample reads one figure of a metrics page.
func sample(page, name string) (float64, error) {
	text, ok := line.Metric(page, name)
	if !ok {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return strconv.ParseFloat(text, 64)
}

// unixPage gets a page of a server on a Unix socket. Any status but 200 is an error.
func unixPage(ctx context.Context, socket, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pageLimit)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, body.String())
	}
	return body.String(), nil
}

// pause waits, or fails when ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// atMost is a row whose figure should not be above a goal; zero: it is only watched.
func atMost(e effort, name, unit string, value, goal float64) row {
	r := row{Name: name, Unit: unit, Line: value, Min: value, Max: value, OK: true, Quick: e.quick}
	if goal != 0 {
		r.Goal, r.OK = fmt.Sprintf("<= %g %s", goal, unit), value <= goal
	}
	return r
}
