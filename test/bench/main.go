// Command bench measures what the line costs: the same requests straight to the API server and through kas and agentk, in pairs,
// in one run. Real binaries as separate processes on loopback, TLS at the API server and at the proxy, ws:// on the agent's link.
// README.md says what each figure is and how to run it. The figures go to the terminal and to test/bench/out/latest.json.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"gitlab.com/agentk/agentk/test/bench/floor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, work := "bench", run
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case fakeCommand:
			name, work = "fake API server", func(context.Context) error { return fakeAPIServer() }
		case floorCommand:
			name, work = "floor", func(ctx context.Context) error { return floor.Run(ctx, os.Args[2:]) }
		}
	}
	if err := work(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// effort says how much a run measures.
type effort struct {
	// pairs of each long.
	pairs int
	each  time.Duration
	// agents and watches are how many there are where there are many.
	agents, watches int
	// sustained is how long the load lasts that must not lose a request.
	sustained time.Duration
	quick     bool
}

func run(ctx context.Context) error {
	e := effort{pairs: 5, each: 4 * time.Second, agents: 2000, watches: 1000, sustained: time.Minute}
	if os.Getenv("QUICK") != "" {
		e = effort{pairs: 2, each: 2 * time.Second, agents: 200, watches: 200, sustained: 10 * time.Second, quick: true}
	}
	wanted, err := choose(groups, os.Getenv("ROWS"))
	if err != nil {
		return err
	}
	begun := time.Now()
	progress := func(text string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05"), text) }
	progress("machine: " + load())
	s := &stage{effort: e, progress: progress, profiles: os.Getenv("PROFILE")}
	defer s.close()
	rows, failed := s.perform(ctx, wanted)
	if err := s.settled(ctx); err != nil {
		failed = append(failed, err)
	}
	progress(fmt.Sprintf("machine: %s; the run took %s", load(), time.Since(begun).Round(time.Second)))
	if err := writeTable(os.Stdout, rows); err != nil {
		return err
	}
	if err := writeJSON(rows); err != nil {
		return err
	}
	for _, err := range failed {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d failures", len(failed))
	}
	return nil
}

// perform runs groups one after the other. One that fails leaves its rows without figures, and the run goes on.
func (s *stage) perform(ctx context.Context, wanted []group) (rows []row, failed []error) {
	for _, g := range wanted {
		if g.early == nil {
			continue
		}
		if err := g.early(ctx, s); err != nil {
			failed = append(failed, fmt.Errorf("%s, early: %w", g.name, err))
		}
	}
	for _, g := range wanted {
		s.progress(g.name)
		begun, goroutines := time.Now(), s.census(ctx)
		measured, err := g.run(ctx, s)
		if err == nil {
			err = g.complete(measured)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", g.name, err)
			s.progress("FAILED: " + err.Error())
			failed = append(failed, err)
			measured = g.without(measured, err)
		}
		for _, r := range measured {
			r.Quick = s.quick
			rows = append(rows, r)
			s.progress("  " + r.String())
		}
		s.progress(fmt.Sprintf("%s: took %s%s", g.name, time.Since(begun).Round(time.Second), goroutines()))
		if ctx.Err() != nil {
			break
		}
	}
	return rows, failed
}

// load is what else the machine is doing, as far as the kernel tells.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load unknown"
	}
	return "load " + strings.Join(strings.Fields(string(data))[:3], " ")
}
