package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// group is figures that are taken together.
type group struct {
	name string
	// rows are the names of its figures.
	rows []string
	run  func(ctx context.Context, s *stage) ([]row, error)
	// early, if there is one, starts before the first group what needs minutes of rest.
	early func(ctx context.Context, s *stage) error
}

// groups is the whole suite, in the order of the table.
var groups = []group{
	{name: "small GET, one client", rows: []string{
		"get_p50_c1", "floor_get_p50_c1", "floor_lean_get_p50_c1", "floor_pipe_get_p50_c1",
		"get_p50_fake_us", "floor_get_p50_fake_us", "floor_lean_get_p50_fake_us", "floor_pipe_get_p50_fake_us",
	}, run: getOne},
	{name: "small GET, 64 clients", rows: []string{
		"get_rps_c64", "get_p99_c64", "cpu_per_request_ms",
		"floor_get_rps_c64", "floor_lean_get_rps_c64", "floor_pipe_get_rps_c64",
		"floor_cpu_per_request_ms", "floor_lean_cpu_per_request_ms", "floor_pipe_cpu_per_request_ms",
	}, run: getMany},
	{name: "list of 50 MB", rows: []string{"list50_text", "list50_random", "cpu_per_gb_s", "list50_fake"}, run: lists},
	{name: "exec and port-forward to a container", rows: []string{"exec_stdin_100mb", "portforward_100mb", "echo_p50_ms"}, run: nodeSessions},
	{name: "exec and port-forward, fake API server", rows: []string{"exec_stdin_100mb_fake", "portforward_100mb_fake"}, run: fakeSessions},
	{name: "keystrokes, fake API server", rows: []string{"echo_p50_fake_ms"}, run: fakeEchoes},
	{name: "one agent at full rate", rows: []string{"sustained_1_agent", "sustained_1_agent_rps"}, run: sustained},
	{name: "the same over wss://", rows: []string{"get_rps_c64_wss", "list50_text_wss"}, run: overTLS},
	{name: "idle daemons", rows: []string{"kas_rss_mb", "agentk_rss_mb", "engine_rss_mb", "kas_heap_mb", "agentk_heap_mb"}, run: idleDaemons},
	{name: "restart of kas", rows: []string{"restart_ready_s", "restart_outage_s"}, run: restarts},
	{name: "idle agents", rows: []string{"idle_agent_kb", "idle_agent_go_kb", "idle_agent_goroutines"}, run: apart(idleAgentRows)},
	{name: "watches", rows: []string{
		"watch_kb_kas", "watch_kb_agentk", "watch_go_kb_kas", "watch_go_kb_agentk", "watch_p99_ms", "watch_fanout_p99_ms",
	}, run: apart(watchRows)},
	{name: "bursts", rows: []string{
		"burst500_cpu_ms", "burst500_p99_ms", "burst500_rtt50_p99_ms", "floor_burst500_p99_ms", "floor_burst500_cpu_ms",
	}, run: burstRows, early: standBy},
	{name: "a long way", rows: []string{"wan_10mb_s", "wan_200mb_mb_s"}, run: apart(wanRows)},
	{name: "several kas", rows: []string{"hop_added_p50_us", "floor_hop_added_p50_us", "hop_cold_ms", "absent_redis_cmds_s", "absent_500_redis_cmds_s"}, run: apart(replicaRows)},
	{name: "reconnect storm", rows: []string{"storm_2000_p99_s"}, run: apart(stormRows)},
	{name: "GitOps", rows: []string{
		"gitops_first_wall", "gitops_first_calls", "gitops_first_cpu", "gitops_first_rss",
		"gitops_noop_calls", "gitops_noop_cpu", "gitops_noop_rss",
		"gitops_one_wall", "gitops_one_calls", "gitops_one_cpu", "gitops_one_rss",
	}, run: apart(gitopsRows)},
}

// choose returns the groups that have a row whose name contains one of the words, which commas separate; no words: all.
func choose(all []group, words string) ([]group, error) {
	if words == "" {
		return all, nil
	}
	list := strings.Split(words, ",")
	wanted := slices.DeleteFunc(slices.Clone(all), func(g group) bool {
		return !slices.ContainsFunc(g.rows, func(name string) bool {
			return slices.ContainsFunc(list, func(word string) bool { return word != "" && strings.Contains(name, word) })
		})
	})
	if len(wanted) == 0 {
		return nil, fmt.Errorf("ROWS=%s: no figure has such a name", words)
	}
	return wanted, nil
}

// complete says whether a group has measured each of its figures, once, and nothing else.
func (g group) complete(measured []row) error {
	names := make([]string, len(measured))
	for i, r := range measured {
		names[i] = r.Name
	}
	if want := slices.Sorted(slices.Values(g.rows)); !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		return fmt.Errorf("measured %v instead of %v", names, g.rows)
	}
	return nil
}

// without completes what a group has measured before it failed: every row is there, those without a figure with the reason.
func (g group) without(measured []row, err error) []row {
	for _, name := range g.rows {
		if !slices.ContainsFunc(measured, func(r row) bool { return r.Name == name }) {
			measured = append(measured, row{Name: name, err: err})
		}
	}
	return measured
}

// apart runs a group that has everything of its own.
func apart(run func(context.Context, effort, func(string)) ([]row, error)) func(context.Context, *stage) ([]row, error) {
	return func(ctx context.Context, s *stage) ([]row, error) { return run(ctx, s.effort, s.progress) }
}
