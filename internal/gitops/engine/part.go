package engine

import (
	"context"
	"errors"
	"time"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
	"gitlab.com/agentk/agentk/internal/gitops/engine/status"
)

// partTimeout bounds the last word on a run that was cut short: the next job of the worker may wait for it.
const partTimeout = 5 * time.Second

// errForgotten is why a worker ends when agentk does not want it any more.
var errForgotten = errors.New("it was taken out of the configuration, or its options were changed")

// Other reasons of a run that was cut short.
const (
	partReplaced  = "its options were changed"
	partCancelled = "the agent cancelled it"
	partEnded     = "the agent ended, or another of its pods goes on"
)

// unfinished is a run that people were shown as going on.
type unfinished struct {
	sync     *synchronisation
	document status.Document
}

// cut notes how far a pass came that was cut short.
func (s *synchronisation) cut(f *engine.Finished, out *apply.Outcome) {
	if running := s.worker.shown.running; running != nil && out != nil {
		running.document.Counts, running.document.Objects = countsOf(f), objectsOf(out)
	}
}

// part has the last word on a run that was shown as going on and was cut short, unless the next job writes in the same place.
func (w *worker) part() {
	last := w.shown.running
	if last == nil {
		return
	}
	w.mu.Lock()
	next := w.next
	w.mu.Unlock()
	if w.ctx.Err() == nil && next != nil && w.writesOver(last, next) {
		return
	}
	w.shown.running = nil
	now := time.Now()
	d := last.document
	d.State, d.Finished, d.Error = status.Stopped, &now, "stopped before its end: "+w.whyParted(next)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), partTimeout)
	defer cancel()
	clients, err := last.sync.clients(ctx)
	if err == nil {
		err = last.sync.writer().Replace(ctx, last.document, d, clients...)
	}
	if err != nil {
		w.log("warn", "Status of a synchronisation that was cut short was not written", d.Commit, map[string]string{"error": err.Error()})
	}
}

// writesOver says whether a job will write the status of a run.
func (w *worker) writesOver(last *unfinished, next *job) bool {
	u, err := newUnit(w.engine.setup.GetAgentId(), next.begin)
	s := synchronisation{unit: u}
	return err == nil && u.namespace == last.sync.unit.namespace && u.id == last.sync.unit.id && !s.quiet() && !next.begin.GetDiff()
}

func (w *worker) whyParted(next *job) string {
	switch {
	case errors.Is(context.Cause(w.ctx), errForgotten):
		return errForgotten.Error()
	case w.ctx.Err() != nil:
		return partEnded
	case next != nil:
		return partReplaced
	default:
		return partCancelled
	}
}
