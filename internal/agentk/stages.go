package agentk

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// part is something that runs until its context ends and returns nil then.
type part struct {
	name string
	run  func(context.Context) error
}

// stage is a set of parts that start and stop together.
type stage []part

// runStages starts the stages in order, and stops them in the reverse order when ctx ends or a part ends by itself: what serves
// requests is gone before what it needs. It returns when all parts have returned.
func runStages(ctx context.Context, stages ...stage) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var stops []func() error
	for _, s := range stages {
		stops = append(stops, s.start(ctx, fail))
	}
	<-ctx.Done()
	var errs error
	for i := len(stops) - 1; i >= 0; i-- {
		errs = errors.Join(errs, stops[i]())
	}
	return errs
}

// start runs the parts; the returned function stops them and waits. A part that ends on its own fails everything.
func (s stage) start(ctx context.Context, fail context.CancelCauseFunc) func() error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	for _, p := range s {
		group.Go(func() error {
			err := p.run(own)
			if err == nil && own.Err() == nil {
				err = errors.New("ended too early")
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", p.name, err)
				fail(err)
			}
			return err
		})
	}
	return func() error {
		cancel()
		return group.Wait()
	}
}
