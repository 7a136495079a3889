package gitlab

import (
	"context"
	"sync"
)

// workers run what Rails leaves to background jobs.
type workers struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  *sync.WaitGroup
}

func newWorkers() workers {
	ctx, cancel := context.WithCancel(context.Background())
	return workers{ctx: ctx, cancel: cancel, group: &sync.WaitGroup{}}
}

// do runs something in the background, until its end or that of the GitLab.
func (w *workers) do(work func(context.Context)) {
	if w.ctx.Err() != nil {
		return
	}
	w.group.Go(func() { work(w.ctx) })
}

func (w *workers) stop() {
	w.cancel()
	w.group.Wait()
}
