package main

import (
	"context"
	"fmt"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

const (
	// settle is how long all is well between two restarts.
	settle = 3 * time.Second
	// askAgain is how long a refused question waits.
	askAgain = 2 * time.Millisecond
)

// restarts is how long a restart of kas is felt. restart_ready_s counts from the start of the new process to the first answer through the
// agent, which has to connect again; restart_outage_s from the SIGTERM for the old one.
func restarts(ctx context.Context, st *stage) ([]row, error) {
	l, err := st.lone(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	bearer, err := l.Bearer(job, idleAgent)
	if err != nil {
		return nil, err
	}
	t := target{client: newClient(l.Authority.Pool), base: l.ProxyURL}
	t.header = map[string][]string{"Authorization": {"Bearer " + bearer}}
	defer t.client.CloseIdleConnections()
	var ready, outage []float64
	for range st.pairs {
		if err := t.answers(ctx); err != nil {
			return nil, err
		}
		if err := pause(ctx, settle); err != nil {
			return nil, err
		}
		fromStart, fromSignal, err := t.restart(ctx, l)
		if err != nil {
			return nil, err
		}
		ready, outage = append(ready, fromStart), append(outage, fromSignal)
	}
	return []row{
		figure("restart_ready_s", "s", nil, ready, most(plain, 0.5)),
		figure("restart_outage_s", "s", nil, outage, noGoal()),
	}, nil
}

func (t target) restart(ctx context.Context, l *line.Line) (fromStart, fromSignal float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	signalled := time.Now()
	if _, err := l.StopKas(ctx); err != nil {
		return 0, 0, err
	}
	started := time.Now()
	if err := l.Replicas[0].Spawn(); err != nil {
		return 0, 0, err
	}
	if err := t.answers(ctx); err != nil {
		return 0, 0, err
	}
	return time.Since(started).Seconds(), time.Since(signalled).Seconds(), nil
}

// answers asks until there is an answer.
func (t target) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		_, err := t.get(ctx, smallPath)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for an answer: %w", err)
		}
		time.Sleep(askAgain)
	}
}
