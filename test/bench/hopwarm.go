package main

import (
	"context"
	"net/http"
	"time"

	"gitlab.com/agentk/agentk/test/bench/floor"
)

// hopRounds is how many pairs of measurements there are of the hop.
const hopRounds = 10

// hopRows are how much later the median answer comes through the kas that does not hold the agent, and, in turn with that, how much later
// through a barest line with a relay in it.
func (r *replicas) hopRows(ctx context.Context, e effort) ([]row, error) {
	stop, err := r.connect(0, warmAgent)
	if err != nil {
		return nil, err
	}
	defer stop()
	fake, err := startFake()
	if err != nil {
		return nil, err
	}
	defer fake.stop()
	api := target{client: newClient(fake.authority.Pool), base: fake.url, header: http.Header{}, authority: fake.authority.File}
	short, err := startBarest(floor.Requests, api, false)
	if err != nil {
		return nil, err
	}
	defer short.stop()
	long, err := startBarest(floor.Requests, api, true)
	if err != nil {
		return nil, err
	}
	defer long.stop()
	ask := func(t target) func(context.Context, time.Duration) (loadResult, error) {
		return func(ctx context.Context, d time.Duration) (loadResult, error) { return t.load(ctx, "/version", 1, d) }
	}
	samples, err := takeTurns(ctx, effort{pairs: hopRounds, each: e.each / hopRounds}, []side[loadResult]{
		{name: "through its own kas", take: ask(r.through(0, warmAgent))},
		{name: "through the other kas", take: ask(r.through(1, warmAgent))},
		{name: "through the floor", take: ask(short.through)},
		{name: "through the floor with a relay", take: ask(long.through)},
	})
	if err != nil {
		return nil, err
	}
	return []row{
		figure("hop_added_p50_us", "us", nil, later(samples[0], samples[1]), most(plain, goalHopUs)),
		figure("floor_hop_added_p50_us", "us", nil, later(samples[2], samples[3]), noGoal()),
	}, nil
}

// later is by how many microseconds the medians of the second way are later, pair by pair.
func later(one, other []loadResult) []float64 {
	added := make([]float64, len(one))
	for i := range one {
		added[i] = float64((other[i].p50 - one[i].p50).Nanoseconds()) / 1e3
	}
	return added
}
