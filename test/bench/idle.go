package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"gitlab.com/agentk/agentk/test/line"
	"gitlab.com/agentk/agentk/test/swarm"
)

const (
	// idleGoal is the resident memory of kas per idle agent, in KiB.
	idleGoal = 72
	// idleLimit bounds all of it, and arriving that of the agents to come.
	idleLimit = 10 * time.Minute
	arriving  = 2 * time.Minute
)

// restFor is how long memory may take to settle.
func (e effort) restFor() time.Duration {
	if e.quick {
		return 8 * time.Second
	}
	return time.Minute
}

// idleAgentRows measure what kas pays for an agent that only waits: one connection with GetConfiguration and two parked streams.
func idleAgentRows(ctx context.Context, e effort, progress func(string)) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	n := e.agents
	dir, err := os.MkdirTemp("", "idle-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	k, err := swarm.NewKas(ctx, dir, n)
	if err != nil {
		return nil, err
	}
	if err := k.Start(ctx); err != nil {
		return nil, err
	}
	defer k.Kill()
	kas := watched{name: "kas", pid: k.PID(), page: k.Page}
	without, err := kas.rest(ctx, e.restFor())
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("%d idle agents: without them kas has %.1f MiB", n, without.rss/1024))
	one, err := withAgents(ctx, e, k, kas, n, without)
	if err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("idle agent: %.1f KiB RSS, %.1f heap, %.1f stack, %.1f goroutines", one.rss, one.heap, one.stack, one.goroutines))
	return []row{
		atMost(e, "idle_agent_kb", "KiB", one.rss, idleGoal),
		atMost(e, "idle_agent_go_kb", "KiB", one.heap+one.stack, 0),
		atMost(e, "idle_agent_goroutines", "", one.goroutines, 0),
	}, kas.calm(ctx, without)
}

// withAgents returns what each of n agents adds to kas. They are gone when it returns.
func withAgents(ctx context.Context, e effort, k *swarm.Kas, kas watched, n int, without footprint) (one footprint, err error) {
	s, err := swarm.Start(ctx, swarm.Config{Agents: n, KasURL: k.URL, Token: swarm.Token})
	if err != nil {
		return footprint{}, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	coming, cancel := context.WithTimeout(ctx, arriving)
	defer cancel()
	if err := line.Wait(coming, func(ctx context.Context) error { return allIdle(ctx, kas, n) }); err != nil {
		return footprint{}, err
	}
	with, err := kas.rest(ctx, e.restFor())
	if err != nil {
		return footprint{}, err
	}
	if err := profiles(ctx, "idle_agent_kb", kas); err != nil {
		return footprint{}, err
	}
	return with.per(n, without), nil
}

// allIdle is nil when n agents ask for their configuration and have two parked streams each.
func allIdle(ctx context.Context, kas watched, n int) error {
	page, err := kas.page(ctx, "/metrics")
	if err != nil {
		return err
	}
	const configuration = `grpc_server_started_total{grpc_method="GetConfiguration",grpc_service="gitlab.agent.agent_configuration.rpc.AgentConfiguration",grpc_type="server_stream"}`
	for name, want := range map[string]int{`kas_tunnels{state="idle"}`: 2 * n, configuration: n} {
		got, err := sample(page, name)
		if err != nil {
			return err
		}
		if int(got) < want {
			return fmt.Errorf("%s is %g, want %d", name, got, want)
		}
	}
	return nil
}
