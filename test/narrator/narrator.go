// Package narrator tells what a demonstration does: a line per step, what was typed and what came back, and a summary at the end.
package narrator

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

// Narrator writes down what happens: a line per step, and below it what a person at a terminal would have typed and seen.
type Narrator struct {
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

// New returns a narrator that writes to out.
func New(out io.Writer) *Narrator { return &Narrator{out: out} }

// Step tells what is about to happen and does it.
func (n *Narrator) Step(ctx context.Context, what string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	n.Printf("\n%2d. %s\n", len(n.steps)+1, what)
	stop := n.progress(start)
	err := do(ctx)
	stop()
	n.steps = append(n.steps, stepResult{what: what, took: time.Since(start), ok: err == nil})
	if err != nil {
		n.Printf("    FAILED: %s\n", Indented(err.Error()))
	}
	return err
}

// progress says every now and then that the step still goes on.
func (n *Narrator) progress(start time.Time) func() {
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
				n.Printf("    ... %.0f s\n", time.Since(start).Seconds())
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// Command shows a command line.
func (n *Narrator) Command(program string, args ...string) {
	n.Printf("    $ %s %s\n", program, strings.Join(args, " "))
}

// Output shows what a command said.
func (n *Narrator) Output(text string) {
	if text = strings.TrimRight(text, "\n"); text != "" {
		n.Printf("    %s\n", Indented(text))
	}
}

// Summary lists all steps. err is why there are no more of them.
func (n *Narrator) Summary(err error) {
	var total time.Duration
	done := 0
	n.Printf("\nSummary\n")
	for i, s := range n.steps {
		mark := "ok"
		if !s.ok {
			mark = "FAILED"
		} else {
			done++
		}
		total += s.took
		n.Printf("%3d. %-6s %6.1f s  %s\n", i+1, mark, s.took.Seconds(), s.what)
	}
	if err != nil {
		n.Printf("The demo did not get through: %d steps done in %.1f s, then it failed.\n", done, total.Seconds())
		return
	}
	n.Printf("All %d steps done in %.1f s.\n", done, total.Seconds())
}

// Printf writes text that belongs to no step.
func (n *Narrator) Printf(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fmt.Fprintf(n.out, format, args...)
}

// Indented puts further lines of a text below its first one, as the output of a step is.
func Indented(text string) string { return strings.ReplaceAll(text, "\n", "\n    ") }
