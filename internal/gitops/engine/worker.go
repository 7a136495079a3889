package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/backoff"
	"gitlab.com/agentk/agentk/internal/gitops/engine/drift"
)

// fight slows corrections down when somebody keeps changing the same fields: two controllers would otherwise keep the API server busy.
var fight = backoff.Policy{Initial: 200 * time.Millisecond, Max: time.Minute, Factor: 2, ResetAfter: 2 * time.Minute}

// worker synchronises one unit: the newest job it was given, again and again until there is a newer one.
type worker struct {
	name   string
	engine *Engine
	ctx    context.Context // of the worker's life
	stop   context.CancelCauseFunc
	shown  *shown       // used by the worker's goroutine only
	left   *drift.State // what the newest successful run left; used by the worker's goroutine only

	mu        sync.Mutex // guards all below
	next      *job
	cancelRun context.CancelFunc
	wake      chan struct{} // holds a token when next may be set
}

func newWorker(ctx context.Context, name string, e *Engine) *worker {
	w := &worker{name: name, engine: e, wake: make(chan struct{}, 1), shown: &shown{}}
	w.ctx, w.stop = context.WithCancelCause(ctx)
	return w
}

// submit makes j the job. A run of an older one is cancelled.
func (w *worker) submit(j *job) {
	w.mu.Lock()
	w.next = j
	if w.cancelRun != nil {
		w.cancelRun()
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// cancel ends the run and drops the job.
func (w *worker) cancel() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = nil
	if w.cancelRun != nil {
		w.cancelRun()
	}
}

// end ends the worker; its goroutine follows.
func (w *worker) end() { w.stop(errForgotten) }

// take returns the newest job and a context that ends with it.
func (w *worker) take() (*job, context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.next
	if j == nil {
		return nil, nil
	}
	w.next = nil
	ctx, cancel := context.WithCancel(w.ctx)
	w.cancelRun = cancel
	return j, ctx
}

// loop is the worker's goroutine.
func (w *worker) loop() {
	defer w.stop(nil)
	for {
		select {
		case <-w.ctx.Done():
			w.part()
			return
		case <-w.wake:
		}
		if j, ctx := w.take(); j != nil {
			w.follow(ctx, j)
			if ctx.Err() != nil {
				w.part()
			}
		}
	}
}

// follow synchronises a job until ctx ends.
func (w *worker) follow(ctx context.Context, j *job) {
	u, err := newUnit(w.engine.setup.GetAgentId(), j.begin)
	if err != nil {
		w.finished(&engine.Finished{Error: err.Error(), UserError: true})
		return
	}
	s := newSync(w, u, j)
	defer s.close()
	if held := j.begin.GetHeld(); held != "" {
		s.hold(ctx, held)
		return
	}
	if j.begin.GetDiff() {
		s.diff(ctx)
		return
	}
	retry, quarrel := backoff.New(w.engine.config.Retry), backoff.New(fight)
	reason := engine.Finished_COMMIT
	for ctx.Err() == nil {
		report := s.pass(ctx, reason)
		if report == nil || ctx.Err() != nil {
			return
		}
		pause := u.interval
		reason = engine.Finished_INTERVAL
		if report.GetError() != "" && !report.GetUserError() {
			pause, reason = retry.Next(), engine.Finished_RETRY
		} else {
			retry.Reset()
		}
		var drifted bool
		if drifted, err = wait(ctx, pause, s.drifted); err != nil {
			return
		}
		if drifted {
			if _, err = wait(ctx, quarrel.Next(), nil); err != nil {
				return
			}
			reason = engine.Finished_WATCH
		}
	}
}

// wait sleeps; true: something came first.
func wait(ctx context.Context, d time.Duration, something <-chan struct{}) (bool, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, errors.New("cancelled")
	case <-something:
		return true, nil
	case <-t.C:
		return false, nil
	}
}

// works tells agentk what is done now.
func (w *worker) works(rendering bool) {
	w.engine.send.message(&engine.FromEngine{Message: &engine.FromEngine_Working{Working: &engine.Working{Worker: w.name, Rendering: rendering}}})
}

// finished reports a pass.
func (w *worker) finished(f *engine.Finished) {
	f.Worker = w.name
	w.engine.send.message(&engine.FromEngine{Message: &engine.FromEngine_Finished{Finished: f}})
}
