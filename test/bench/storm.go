package main

import (
	"context"
	"os"
	"time"

	"gitlab.com/agentk/agentk/test/swarm"
)

const (
	stormRounds = 3
	// stormGoal is how long it may take, in seconds.
	stormGoal = 30
	// stormLimit bounds one storm.
	stormLimit = 5 * time.Minute
)

// stormRows measures how long after the death of their kas, which comes back at once, 99 % of the agents serve a request again. With
// less effort there is one round instead of three, and fewer agents.
func stormRows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	rounds := stormRounds
	if e.quick {
		rounds = 1
	}
	var took []float64
	for range rounds {
		one, err := storm(ctx, e.agents, progress)
		if err != nil {
			return nil, err
		}
		took = append(took, one.Seconds())
	}
	return []row{figure("storm_2000_p99_s", "s", nil, took, most(plain, stormGoal))}, nil
}

func storm(ctx context.Context, agents int, progress func(string)) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stormLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "swarm-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	served, err := swarm.Storm(ctx, dir, agents, progress)
	if err != nil {
		return 0, err
	}
	return served.Share(0.99), nil
}
