// Package doctor finds out why an installation does not work. It runs checks one after the other, each of them one hop further than the
// last, and explains the first thing that is wrong in words that lead to its repair. This package is the engine: what a check is, how
// checks depend on each other, what the report looks like, and the catalogue of causes. The checks themselves are in agent, job and
// server, each for the place from which it looks; README.md tells users about every cause.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Limits of a run. A healthy installation takes a second.
const (
	// DefaultTimeout bounds a check that sets no other limit.
	DefaultTimeout = 8 * time.Second
	// RunTimeout bounds all checks together.
	RunTimeout = 50 * time.Second
)

// Status is how a check ended.
type Status string

// Statuses, as they are in the JSON report.
const (
	OK      Status = "ok"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skipped"
)

// Outcome is what a check found.
type Outcome struct {
	Status Status
	// What was seen, with names, addresses and versions. One line.
	What string
	// Cause is the ID of an entry of the catalogue, for Warn and Fail.
	Cause string
	// Fix replaces that of the catalogue where the check knows better; empty: it does not.
	Fix string
}

// Good is the outcome of a check that found nothing wrong.
func Good(format string, args ...any) Outcome {
	return Outcome{Status: OK, What: fmt.Sprintf(format, args...)}
}

// Bad is the outcome of a check that found why nothing works.
func Bad(cause, format string, args ...any) Outcome {
	return Outcome{Status: Fail, Cause: cause, What: fmt.Sprintf(format, args...)}
}

// Doubt is the outcome of a check that found what works, but not well or not for everybody.
func Doubt(cause, format string, args ...any) Outcome {
	return Outcome{Status: Warn, Cause: cause, What: fmt.Sprintf(format, args...)}
}

// Skip is the outcome of a check that has nothing to look at; the text says why.
func Skip(format string, args ...any) Outcome {
	return Outcome{Status: Skipped, What: fmt.Sprintf(format, args...)}
}

// WithFix gives an outcome a fix of its own.
func (o Outcome) WithFix(format string, args ...any) Outcome {
	o.Fix = fmt.Sprintf(format, args...)
	return o
}

// Passed says whether what builds on the check can be looked at.
func (o Outcome) Passed() bool { return o.Status == OK || o.Status == Warn }

// Check is one question to the installation.
type Check struct {
	// ID names the check in the JSON report and in --skip.
	ID string
	// Name is what people read.
	Name string
	// Needs are the IDs of checks that must have passed. Those that are not part of the run do not count.
	Needs []string
	// Timeout bounds it; 0 means DefaultTimeout. A check returns soon after its context ended.
	Timeout time.Duration
	Run     func(ctx context.Context) Outcome
}

// Run makes all checks in their order, but for those whose ID is in skip, and reports. It returns after RunTimeout at the latest, if the
// checks keep to their contexts.
func Run(ctx context.Context, head Head, checks []Check, skip []string) *Report {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, RunTimeout)
	defer cancel()
	r := &Report{Schema: schema, Head: head, StartedAt: start.UTC().Truncate(time.Second)}
	outcomes := map[string]Outcome{}
	names := map[string]string{}
	for i := range checks {
		c := &checks[i]
		names[c.ID] = c.Name
		began := time.Now()
		o := one(ctx, c, outcomes, names, slices.Contains(skip, c.ID))
		outcomes[c.ID] = o
		r.add(c, o, time.Since(began))
	}
	r.finish(time.Since(start))
	return r
}

// one makes a check, unless something that it needs has failed.
func one(ctx context.Context, c *Check, outcomes map[string]Outcome, names map[string]string, skip bool) Outcome {
	if skip {
		return Skip("as asked by --skip")
	}
	for _, need := range c.Needs {
		if before, made := outcomes[need]; made && !before.Passed() {
			return Skip("not looked at: it needs %q", names[need])
		}
	}
	if ctx.Err() != nil {
		return Bad("too-slow", "there was no time left for this check")
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.Run(ctx)
}
