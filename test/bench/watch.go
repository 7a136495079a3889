package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// The goals: resident memory per watch in KiB, delivery in ms.
	watchKasGoal    = 80
	watchAgentkGoal = 40
	watchP99Goal    = 5
	// eventsPerSecond is how many events there are, over all watches.
	eventsPerSecond = 100
	// fanOuts is how many events go to all watches.
	fanOuts      = 20
	fanOutsQuick = 5
	watchLimit   = 10 * time.Minute
)

// watchRows measure what an open watch costs both daemons, and how soon its events arrive.
func watchRows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, watchLimit)
	defer cancel()
	n := e.watches
	b, err := startEdge(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer b.close()
	atStart, err := b.atStart(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.warm(ctx); err != nil {
		return nil, err
	}
	var before []footprint
	for _, d := range b.daemons() {
		f, err := d.rest(ctx, e.restFor())
		if err != nil {
			return nil, err
		}
		before = append(before, f)
	}
	progress(fmt.Sprintf("%d watches: without them kas has %.1f MiB, agentk %.1f", n, before[0].rss/1024, before[1].rss/1024))
	rows, err := b.watching(ctx, e, n, before, progress)
	if err != nil {
		return nil, err
	}
	return rows, b.calm(ctx, e, atStart)
}

// warm lets everything happen once that happens once.
func (b *edge) warm(ctx context.Context) error {
	conns, err := b.lones(ctx, 0, 1, (*lone).warm)
	if err != nil {
		return err
	}
	defer closeLones(conns)
	for range 20 {
		if _, err := conns[0].get(podsPath, "", startLimit); err != nil {
			return err
		}
	}
	return nil
}

// watching opens n watches and measures them.
func (b *edge) watching(ctx context.Context, e effort, n int, before []footprint, progress func(string)) ([]row, error) {
	conns, err := b.lones(ctx, 0, n, (*lone).warm)
	if err != nil {
		return nil, err
	}
	w := &watchers{failed: make(chan error, n)}
	defer w.reading.Wait()
	defer closeLones(conns)
	for i, l := range conns {
		response, err := l.ask(podsPath, "watch=true&resourceVersion="+strconv.Itoa(i), l.granted, watchLimit)
		if err != nil {
			return nil, fmt.Errorf("watch %d: %w", i, err)
		}
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("watch %d answered %s", i, response.Status)
		}
		w.reading.Go(func() { w.read(response.Body) })
	}
	if err := b.api.watches(ctx, n); err != nil {
		return nil, err
	}
	var per [2]footprint
	for i, d := range b.daemons() {
		with, err := d.rest(ctx, e.restFor())
		if err != nil {
			return nil, err
		}
		per[i] = with.per(n, before[i])
		if err := profiles(ctx, "watch_kb", d); err != nil {
			return nil, err
		}
		progress(fmt.Sprintf("watch: %s has %.1f KiB RSS, %.1f heap, %.1f stack, %.1f goroutines", d.name,
			per[i].rss, per[i].heap, per[i].stack, per[i].goroutines))
	}
	single, err := b.events(ctx, w, n, e.each)
	if err != nil {
		return nil, err
	}
	times := fanOuts
	if e.quick {
		times = fanOutsQuick
	}
	all, err := b.fanOut(ctx, w, n, times)
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("events: p99 %.2f ms, to all watches %.2f ms", single, all))
	return []row{
		atMost(e, "watch_kb_kas", "KiB", per[0].rss, watchKasGoal),
		atMost(e, "watch_kb_agentk", "KiB", per[1].rss, watchAgentkGoal),
		atMost(e, "watch_go_kb_kas", "KiB", per[0].heap+per[0].stack, 0),
		atMost(e, "watch_go_kb_agentk", "KiB", per[1].heap+per[1].stack, 0),
		atMost(e, "watch_p99_ms", "ms", single, watchP99Goal),
		atMost(e, "watch_fanout_p99_ms", "ms", all, 0),
	}, nil
}

// watchers read all watches.
type watchers struct {
	reading sync.WaitGroup
	failed  chan error

	// mu guards took, which is how long the events were on their way.
	mu   sync.Mutex
	took []time.Duration
}

// read takes the events of one watch until its connection is closed.
func (w *watchers) read(body io.Reader) {
	lines := bufio.NewReader(body)
	for {
		text, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		now := time.Now()
		at, err := happened(text)
		if err != nil {
			w.failed <- err
			return
		}
		w.mu.Lock()
		w.took = append(w.took, now.Sub(at))
		w.mu.Unlock()
	}
}

// delivered waits for so many events and returns the 99th percentile of how long they took, in ms. It forgets them.
func (w *watchers) delivered(ctx context.Context, n int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		w.mu.Lock()
		got := len(w.took)
		w.mu.Unlock()
		if got >= n {
			break
		}
		select {
		case err := <-w.failed:
			return 0, err
		default:
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, fmt.Errorf("%d of %d events arrived: %w", got, n, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.took) != n {
		return 0, fmt.Errorf("%d events arrived, want %d", len(w.took), n)
	}
	p99 := percentile(w.took, 0.99)
	w.took = nil
	return p99, nil
}

// percentile is a share of durations, in ms.
func percentile(all []time.Duration, share float64) float64 {
	slices.Sort(all)
	return all[min(int(share*float64(len(all))), len(all)-1)].Seconds() * 1e3
}

// events lets events happen at their rate, each for another watch, for at least 1 000 of them.
func (b *edge) events(ctx context.Context, w *watchers, n int, each time.Duration) (float64, error) {
	const least = 10 * time.Second
	count := int(max(each, least).Seconds() * eventsPerSecond)
	tick := time.NewTicker(time.Second / eventsPerSecond)
	defer tick.Stop()
	for i := range count {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		if err := b.api.happen(i % n); err != nil {
			return 0, err
		}
	}
	return w.delivered(ctx, count)
}

// fanOut lets events happen that go to all watches at once.
func (b *edge) fanOut(ctx context.Context, w *watchers, n, times int) (float64, error) {
	var worst []float64
	for range times {
		var errs []error
		for i := range n {
			errs = append(errs, b.api.happen(i))
		}
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		p99, err := w.delivered(ctx, n)
		if err != nil {
			return 0, err
		}
		worst = append(worst, p99)
	}
	return median(worst), nil
}
