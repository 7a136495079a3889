package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	burstClients = 500
	burstRounds  = 3
	burstRTT     = 50 * time.Millisecond
	// The goals of the 99th percentile, in ms; the second one is three round trips and 100 ms.
	burstGoal    = 120
	burstGoalRTT = 250
	burstLimit   = 15 * time.Minute
	// keepOpen is how often a connection says something, so that kas does not close it as idle.
	keepOpen = 20 * time.Second
)

// standBy starts what the bursts need, early: agents take a good minute to get to their minimum of parked streams.
func standBy(ctx context.Context, st *stage) error {
	ctx, cancel := context.WithTimeout(ctx, burstLimit)
	defer cancel()
	var err error
	st.burst, err = startEdge(ctx, 0, burstRTT)
	return err
}

// burstRows measure 500 simultaneous requests to an agent that has a minimum of streams parked, over connections that stand already, and
// have been used: by a request that does not reach the agent, which would need another minute to get to its minimum.
func burstRows(ctx context.Context, st *stage) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, burstLimit)
	defer cancel()
	b, e := st.burst, st.effort
	if b == nil {
		return nil, errors.New("nothing stands by")
	}
	st.burst = nil
	defer b.close()
	atStart, err := b.atStart(ctx)
	if err != nil {
		return nil, err
	}
	took, cpu, err := b.bursts(ctx, e, st.progress)
	if err != nil {
		return nil, err
	}
	rows, err := b.floorRows(ctx, e)
	if err != nil {
		return rows, err
	}
	rows = append(rows, atMost(e, "burst500_cpu_ms", "ms", median(cpu), 0))
	for i, r := range []row{
		atMost(e, "burst500_p99_ms", "ms", median(took[0]), burstGoal), atMost(e, "burst500_rtt50_p99_ms", "ms", median(took[1]), burstGoalRTT),
	} {
		r.Min, r.Max = slices.Min(took[i]), slices.Max(took[i])
		rows = append(rows, r)
	}
	return rows, b.calm(ctx, e, atStart)
}

// bursts returns the 99th percentile of each burst, by agent, and the CPU that kas and agentk took for those of the first one, in ms.
func (b *edge) bursts(ctx context.Context, e effort, progress func(string)) (took [2][]float64, cpu []float64, err error) {
	var clients [2][]*lone
	defer func() {
		for _, conns := range clients {
			closeLones(conns)
		}
	}()
	for i := range clients {
		if clients[i], err = b.lones(ctx, i, burstClients, (*lone).stayOpen); err != nil {
			return took, cpu, err
		}
	}
	rounds := burstRounds
	if e.quick {
		rounds = 1
	}
	for round := range rounds {
		progress(fmt.Sprintf("burst %d of %d: waiting until the agents are at their minimum of streams", round+1, rounds))
		if err := b.quiet(ctx, clients); err != nil {
			return took, cpu, err
		}
		for i, conns := range clients {
			before, err := b.spent(i)
			if err != nil {
				return took, cpu, err
			}
			own, err := cpuOf(os.Getpid())
			if err != nil {
				return took, cpu, err
			}
			all, err := volley(conns)
			if err != nil {
				return took, cpu, err
			}
			ownAfter, err := cpuOf(os.Getpid())
			if err != nil {
				return took, cpu, err
			}
			after, err := b.spent(i)
			if err != nil {
				return took, cpu, err
			}
			p99 := percentile(all, 0.99)
			progress(fmt.Sprintf("burst at %s: p50 %.1f ms, p99 %.1f ms, last %.1f ms, CPU of kas and agentk %.0f ms, of clients and API server %.0f ms",
				[]string{"no delay", "50 ms RTT"}[i], percentile(all, 0.5), p99, percentile(all, 1), after-before, 1e3*(ownAfter-own)))
			took[i] = append(took[i], p99)
			if i == 0 {
				cpu = append(cpu, after-before)
			}
		}
	}
	return took, cpu, nil
}

// spent is the CPU time that kas and agent i have taken so far, in ms.
func (b *edge) spent(i int) (float64, error) {
	kas, _, err := usage(b.kas.PID())
	if err != nil {
		return 0, err
	}
	agentk, _, err := usage(b.agents[i].pid)
	return 1e3 * (kas + agentk), err
}

// quiet waits until both agents are at their minimum and keeps the connections open meanwhile.
func (b *edge) quiet(ctx context.Context, clients [2][]*lone) error {
	last := time.Now()
	again := func() error {
		if time.Since(last) < keepOpen {
			return nil
		}
		last = time.Now()
		for _, conns := range clients {
			for _, l := range conns {
				if err := l.stayOpen(); err != nil {
					return fmt.Errorf("keep a connection open: %w", err)
				}
			}
		}
		return nil
	}
	for _, a := range b.agents {
		if err := a.minimum(ctx, again); err != nil {
			return err
		}
	}
	return nil
}

// volley asks over all connections at once.
func volley(conns []*lone) ([]time.Duration, error) {
	return allAtOnce(len(conns), func(i int) error {
		_, err := conns[i].get(podsPath, "", startLimit)
		return err
	})
}

// allAtOnce does n things at once. Times count from one moment for all.
func allAtOnce(n int, do func(i int) error) ([]time.Duration, error) {
	took, errs := make([]time.Duration, n), make([]error, n)
	fire := make(chan struct{})
	var start time.Time
	var asking, ready sync.WaitGroup
	for i := range n {
		ready.Add(1)
		asking.Go(func() {
			ready.Done()
			<-fire
			errs[i] = do(i)
			took[i] = time.Since(start)
		})
	}
	ready.Wait()
	start = time.Now()
	close(fire)
	asking.Wait()
	return took, errors.Join(errs...)
}
