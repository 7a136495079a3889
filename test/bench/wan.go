package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

const (
	wanRTT = 50 * time.Millisecond
	// wanGoal is how long a GET of 10 MiB may take, in seconds.
	wanGoal       = 0.6
	wanSmall      = 10 << 20
	wanLarge      = 200 << 20
	wanTimes      = 7
	wanTimesQuick = 3
	wanLimit      = 10 * time.Minute
)

// wanRows measure bulk through an agent that is far away.
func wanRows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, wanLimit)
	defer cancel()
	b, err := startEdge(ctx, wanRTT)
	if err != nil {
		return nil, err
	}
	defer b.close()
	atStart, err := b.atStart(ctx)
	if err != nil {
		return nil, err
	}
	times := wanTimes
	if e.quick {
		times = wanTimesQuick
	}
	var small, large []float64
	if small, err = b.fetch(ctx, wanSmall, times); err != nil {
		return nil, err
	}
	if large, err = b.fetch(ctx, wanLarge, times/2); err != nil {
		return nil, err
	}
	for i, seconds := range large {
		large[i] = wanLarge / 1e6 / seconds
	}
	progress(fmt.Sprintf("50 ms RTT: 10 MiB in %.3f s, 200 MiB at %.1f MB/s", median(small), median(large)))
	first := atMost(e, "wan_10mb_s", "s", median(small), wanGoal)
	first.Min, first.Max = slices.Min(small), slices.Max(small)
	second := atMost(e, "wan_200mb_mb_s", "MB/s", median(large), 0)
	second.Min, second.Max = slices.Min(large), slices.Max(large)
	return []row{first, second}, b.calm(ctx, e, atStart)
}

// fetch returns how many seconds each GET of that size took, one after the other on a warm connection. Each has a tunnel stream of its
// own, as every request.
func (b *edge) fetch(ctx context.Context, size, times int) ([]float64, error) {
	conns, err := b.lones(ctx, 0, 1, (*lone).warm)
	if err != nil {
		return nil, err
	}
	defer closeLones(conns)
	var took []float64
	for range times {
		at := time.Now()
		n, err := conns[0].get(podsPath, "limit="+strconv.Itoa(size), wanLimit)
		if err != nil {
			return nil, err
		}
		if n != int64(size) {
			return nil, fmt.Errorf("%d bytes arrived, want %d", n, size)
		}
		took = append(took, time.Since(at).Seconds())
	}
	return took, nil
}
