package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gitlab.com/agentk/agentk/test/line"
)

// goroutines is how many each daemon of a scene has.
type goroutines struct{ kas, agent, fakeAgent int }

func (g goroutines) String() string {
	return fmt.Sprintf("kas %d, agentk %d and %d", g.kas, g.agent, g.fakeAgent)
}

// within says whether there are not more than before, but for a few of the runtime and of this question.
func (g goroutines) within(before goroutines) bool {
	const slack = 10
	return g.kas <= before.kas+slack && g.agent <= before.agent+slack && g.fakeAgent <= before.fakeAgent+slack
}

func (g goroutines) most(other goroutines) goroutines {
	return goroutines{max(g.kas, other.kas), max(g.agent, other.agent), max(g.fakeAgent, other.fakeAgent)}
}

func (s *scene) goroutines(ctx context.Context) (goroutines, error) {
	var g goroutines
	for _, of := range []struct {
		n    *int
		page func() (string, error)
	}{
		{&g.kas, func() (string, error) { return s.l.KasMetrics(ctx) }},
		{&g.agent, func() (string, error) { return s.l.AgentMetrics(ctx, s.agent) }},
		{&g.fakeAgent, func() (string, error) { return s.l.AgentMetrics(ctx, s.fakeAgent) }},
	} {
		page, err := of.page()
		if err != nil {
			return g, err
		}
		text, ok := line.Metric(page, "go_goroutines")
		if !ok {
			return g, errors.New("no metric go_goroutines")
		}
		if *of.n, err = strconv.Atoi(text); err != nil {
			return g, err
		}
	}
	return g, nil
}

// censusEvery is rare enough to cost nothing that shows.
const censusEvery = 2 * time.Second

// census counts goroutines while a group runs. The returned function ends that and says how many there were.
func (st *stage) census(ctx context.Context) func() string {
	ctx, stop := context.WithCancel(ctx)
	most, done := map[*scene]goroutines{}, make(chan struct{})
	count := func() {
		for _, s := range st.running() {
			if now, err := s.goroutines(ctx); err == nil {
				most[s] = most[s].most(now)
			}
		}
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(censusEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				count()
			}
		}
	}()
	return func() string {
		stop()
		<-done
		text := ""
		for _, s := range st.running() {
			now, err := s.goroutines(context.WithoutCancel(ctx))
			if err != nil {
				return "; goroutines: " + err.Error()
			}
			text += fmt.Sprintf("; goroutines over %s: before %s; at most %s; now %s", s.scheme, s.before, most[s].most(now), now)
		}
		return text
	}
}

// settleLimit is how long surplus streams may take to be retired: a minute parked, and a scan after that.
const settleLimit = 3 * time.Minute

// settled waits until all daemons are as they were; a run that leaks has failed.
func (st *stage) settled(ctx context.Context) error {
	deadline := time.Now().Add(settleLimit)
	for _, s := range st.running() {
		for _, t := range []target{s.direct, s.line, s.fakeDirect, s.fakeLine} {
			t.client.CloseIdleConnections()
		}
		for {
			now, err := s.goroutines(ctx)
			if err != nil {
				return err
			}
			if now.within(s.before) {
				st.progress(fmt.Sprintf("goroutines over %s: before %s; after all %s", s.scheme, s.before, now))
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("leak over %s: goroutines before: %s; after all: %s", s.scheme, s.before, now)
			}
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}
