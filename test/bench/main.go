// Command bench measures what the line costs: the same requests straight to the API server and through kas and agentk, in pairs,
// in one run. Real binaries as separate processes on loopback, TLS at the API server and at the proxy, ws:// on the agent's link.
// QUICK=1 takes fewer and shorter pairs. PROFILE=DIR leaves CPU profiles of both daemons there, of each figure. The figures go to
// the terminal and to test/bench/out/latest.json.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == fakeCommand {
		if err := fakeAPIServer(); err != nil {
			fmt.Fprintln(os.Stderr, "fake API server:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// effort says how much a run measures.
type effort struct {
	pairs int
	each  time.Duration
	quick bool
}

func run(ctx context.Context) error {
	e := effort{pairs: 5, each: 5 * time.Second}
	if os.Getenv("QUICK") != "" {
		e = effort{pairs: 2, each: 2 * time.Second, quick: true}
	}
	progress := func(text string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), text) }
	progress("machine: " + load())
	if only := os.Getenv("ONLY"); only != "" {
		return trial(ctx, e, only, progress)
	}
	s, err := newScene(ctx, progress)
	if err != nil {
		return err
	}
	defer s.close()

	pairs := []pair{
		{name: "get_p50_c1", unit: "ms", agent: agent, direct: s.direct.p50(1, e.each), line: s.line.p50(1, e.each), goal: 1.4},
		{name: "get_rps_c64", unit: "req/s", agent: agent, direct: s.direct.rate(64, e.each), line: s.line.rate(64, e.each), goal: 0.65, atLeast: true},
		{name: "list50_text", unit: "MB/s", agent: agent, direct: s.direct.bulk, line: s.line.bulk, goal: 0.45, atLeast: true},
		{name: "echo_p50_ms", unit: "ms", agent: fakeAgent, direct: s.fakeDirect.keystroke, line: s.fakeLine.keystroke},
	}
	var rows []row
	for _, p := range pairs {
		r, err := p.run(ctx, e.pairs, progress)
		if err != nil {
			return err
		}
		if dir := os.Getenv("PROFILE"); dir != "" {
			if err := s.profile(ctx, dir, p.name, p.agent, e.each, p.line); err != nil {
				return err
			}
		}
		r.Quick = e.quick
		rows = append(rows, r)
	}
	several, err := replicaRows(ctx, e.each, progress)
	if err != nil {
		return err
	}
	for i := range several {
		several[i].Quick = e.quick
	}
	rows = append(rows, several...)
	storm, err := stormRow(ctx, e, progress)
	if err != nil {
		return err
	}
	rows = append(rows, storm)
	synced, err := gitopsRows(ctx, progress)
	if err != nil {
		return err
	}
	for i := range synced {
		synced[i].Quick = e.quick
	}
	rows = append(rows, synced...)
	progress("machine: " + load())
	if err := writeTable(os.Stdout, rows); err != nil {
		return err
	}
	if err := writeJSON(rows); err != nil {
		return err
	}
	return s.settled(ctx)
}

// load is what else the machine is doing, as far as the kernel tells.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load unknown"
	}
	return "load " + strings.Join(strings.Fields(string(data))[:3], " ")
}

const (
	smallPath = "/api/v1/namespaces"
	bulkPath  = "/api/v1/namespaces/" + bulkNamespace + "/configmaps"
	echoPath  = "/api/v1/namespaces/default/pods/p/exec"
)

func (t target) p50(clients int, d time.Duration) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		r, err := t.load(ctx, smallPath, clients, d)
		return float64(r.p50) / float64(time.Millisecond), err
	}
}

func (t target) rate(clients int, d time.Duration) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		r, err := t.load(ctx, smallPath, clients, d)
		return r.rate, err
	}
}

func (t target) bulk(ctx context.Context) (float64, error) { return t.throughput(ctx, bulkPath) }

func (t target) keystroke(ctx context.Context) (float64, error) { return t.echo(ctx, echoPath) }

// trial measures some groups of figures only.
func trial(ctx context.Context, e effort, only string, progress func(string)) error {
	groups := map[string]func(context.Context, effort, func(string)) ([]row, error){
		"idle": idleAgentRows, "watch": watchRows, "burst": burstRows, "wan": wanRows,
	}
	var rows []row
	for name := range strings.SplitSeq(only, ",") {
		measure, ok := groups[name]
		if !ok {
			return fmt.Errorf("ONLY=%s: there is no %s", only, name)
		}
		some, err := measure(ctx, e, progress)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rows = append(rows, some...)
	}
	return writeTable(os.Stdout, rows)
}
