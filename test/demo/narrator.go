package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// stillAt is how often a step that takes long says so.
const stillAt = 10 * time.Second

// narrator writes down what happens: a line per step, and below it what a person at a terminal would have typed and seen.
type narrator struct {
	steps []stepResult

	// mu guards out: a step's progress is told from beside it.
	mu  sync.Mutex
	out io.Writer
}

type stepResult struct {
	what string
	took time.Duration
	ok   bool
}

// step tells what is about to happen and does it.
func (n *narrator) step(ctx context.Context, what string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	n.printf("\n%2d. %s\n", len(n.steps)+1, what)
	stop := n.progress(start)
	err := do(ctx)
	stop()
	n.steps = append(n.steps, stepResult{what: what, took: time.Since(start), ok: err == nil})
	if err != nil {
		n.printf("    FAILED: %s\n", indented(err.Error()))
	}
	return err
}

// progress says every now and then that the step still goes on.
func (n *narrator) progress(start time.Time) func() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stillAt)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				n.printf("    ... %.0f s\n", time.Since(start).Seconds())
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// command shows a command line.
func (n *narrator) command(program string, args ...string) {
	n.printf("    $ %s %s\n", program, strings.Join(args, " "))
}

// output shows what a command said.
func (n *narrator) output(text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		n.printf("    %s\n", indented(text))
	}
}

// summary lists all steps. err is why there are no more of them.
func (n *narrator) summary(err error) {
	var total time.Duration
	done := 0
	n.printf("\nSummary\n")
	for i, s := range n.steps {
		mark := "ok"
		if !s.ok {
			mark = "FAILED"
		} else {
			done++
		}
		total += s.took
		n.printf("%3d. %-6s %6.1f s  %s\n", i+1, mark, s.took.Seconds(), s.what)
	}
	if err != nil {
		n.printf("The demo did not get through: %d steps done in %.1f s, then it failed.\n", done, total.Seconds())
		return
	}
	n.printf("All %d steps done in %.1f s.\n", done, total.Seconds())
}

func (n *narrator) printf(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.out, format, args...)
}

func indented(text string) string { return strings.ReplaceAll(text, "\n", "\n    ") }
