package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/common"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/drift"
	"gitlab.com/agentk/agentk/internal/gitops/engine/inventory"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
	"gitlab.com/agentk/agentk/internal/gitops/engine/release"
	"gitlab.com/agentk/agentk/internal/gitops/render"
)

// synchronisation is one job and what is known of it between passes. It belongs to its worker's goroutine.
type synchronisation struct {
	worker *worker
	unit   unit

	job     *job     // nil once decoded
	decoded *decoded // nil until then
	state   *drift.State
	// drifted gets a token when the watch finds a change.
	drifted   chan struct{}
	stopWatch func() // nil: no watch runs
	// corrects: the pass at hand puts back what was applied before.
	corrects bool
	failed   bool // the pass before the one at hand
}

func newSync(w *worker, u unit, j *job) *synchronisation {
	return &synchronisation{worker: w, unit: u, job: j, drifted: make(chan struct{}, 1)}
}

func (s *synchronisation) close() {
	if s.stopWatch != nil {
		s.stopWatch()
		s.stopWatch = nil
	}
}

// pass does what is to be done now and reports it. Nil: the job waits for agentk to fetch more.
func (s *synchronisation) pass(ctx context.Context, reason engine.Finished_Reason) *engine.Finished {
	begun := time.Now()
	s.corrects = false
	report := &engine.Finished{CommitId: s.unit.commit, Reason: reason}
	out, err := s.try(ctx, report)
	if s.decoded != nil && len(s.decoded.need) > 0 {
		return nil
	}
	if ctx.Err() != nil {
		report.Cancelled = true
		err = nil
	}
	if err != nil {
		report.Error, report.UserError = err.Error(), isUserError(err)
	}
	if out != nil {
		count(report, out)
	}
	report.Duration = durationpb.New(time.Since(begun))
	// A pass that found nothing is no news, unless the one before failed to look.
	switch {
	case report.GetCancelled():
		s.cut(report, out)
	case !report.GetNoop() || s.failed:
		s.show(ctx, begun, report, out)
	}
	s.failed = report.GetError() != ""
	s.worker.finished(report)
	return report
}

// try is one pass.
func (s *synchronisation) try(ctx context.Context, report *engine.Finished) (*apply.Outcome, error) {
	access, err := s.worker.engine.cluster.As(s.unit.account)
	if err != nil {
		return nil, &render.UserError{Reason: err.Error()}
	}
	if err := s.decode(ctx, access); err != nil || len(s.decoded.need) > 0 {
		return nil, err
	}
	s.worker.works(false)
	if (report.GetReason() == engine.Finished_INTERVAL || report.GetReason() == engine.Finished_RETRY) && s.state != nil {
		drifted, err := s.check(ctx, access)
		if err != nil {
			return nil, err
		}
		if len(drifted) == 0 {
			report.Noop = true
			report.Unchanged = int32(s.state.Len())
			return nil, nil
		}
	}
	s.close()
	return s.apply(ctx, access, report)
}

// decode renders the files once.
func (s *synchronisation) decode(ctx context.Context, access *cluster.Access) error {
	if s.decoded != nil {
		return nil
	}
	select {
	case s.worker.engine.rendering <- struct{}{}:
		defer func() { <-s.worker.engine.rendering }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.worker.works(true)
	// A library that renders cannot be stopped but with the process, and a newer commit is no reason for that: it waits until this one is
	// rendered, which takes as long as rendering may at most.
	d, err := decode(context.WithoutCancel(ctx), s.unit, s.job, access)
	if errors.Is(err, render.ErrStuck) {
		// The library goes on computing for ever, and with memory nobody bounds: only the end of the process stops it.
		fmt.Fprintf(os.Stderr, "worker %s, commit %s: %v\n", s.worker.name, s.unit.commit, err)
		os.Exit(2)
	}
	if err != nil {
		return err
	}
	s.decoded, s.job = &d, nil
	if len(d.need) > 0 {
		s.worker.engine.send.message(&engine.FromEngine{Message: &engine.FromEngine_Need{Need: &engine.Need{
			Worker: s.worker.name, CommitId: s.unit.commit, Directories: d.need,
		}}})
	}
	return nil
}

// check looks for drift without writing.
func (s *synchronisation) check(ctx context.Context, access *cluster.Access) ([]string, error) {
	client, err := access.Client(ctx)
	if err != nil {
		return nil, err
	}
	return s.state.Check(ctx, client)
}

// apply plans and applies.
func (s *synchronisation) apply(ctx context.Context, access *cluster.Access, report *engine.Finished) (*apply.Outcome, error) {
	objects, err := unpack(s.decoded.objects)
	if err != nil {
		return nil, err
	}
	p, err := plan.Make(objects, access.Mapper, s.unit.namespace)
	if err != nil {
		return nil, err
	}
	o := s.unit.options
	if len(p.Problems) > 0 && !o.KeepGoing {
		out := apply.Reject(p)
		return out, out.Error()
	}
	before, state := s.worker.left, drift.New(apply.Manager)
	s.state, s.corrects = nil, s.state != nil
	o.Incomplete = len(p.Problems) > 0
	inv := s.inventory(p)
	r := rendered(p.Objects, inv.ID())
	o.Known = s.recall(ctx, access, r)
	o.Applied = func(u *unstructured.Unstructured, request drift.Sum) bool {
		state.Add(u, drift.Sent{Rendered: r.of(u), Request: request})
		return o.DryRun != common.DryRunClient && before.Same(u)
	}
	o.KeepGoing = o.KeepGoing || o.DryRun != common.DryRunNone
	o.Progress = s.progress(ctx, report)
	out := apply.Run(ctx, access, inv, p.Objects, o)
	out.Add(p.Problems)
	if o.DryRun != common.DryRunNone {
		s.worker.logDryRun(report, out)
	}
	if out.OK() && o.DryRun == common.DryRunNone && s.decoded.release != nil {
		s.record(ctx, access)
	}
	if out.OK() && o.DryRun == common.DryRunNone {
		s.state, s.worker.left = state, state
		s.startWatch(ctx, access)
	}
	return out, out.Error()
}

// inventory is the repository's own or the unit's.
func (s *synchronisation) inventory(p plan.Plan) inventory.Info {
	if p.Inventory != nil {
		return inventory.FromObject(p.Inventory.Unstructured)
	}
	return inventory.Default(s.unit.namespace, s.unit.id)
}

// startWatch follows what was applied.
func (s *synchronisation) startWatch(ctx context.Context, access *cluster.Access) {
	if !s.unit.watch {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	client, err := access.Client(ctx)
	if err != nil {
		cancel()
		return
	}
	select {
	case <-s.drifted:
	default:
	}
	state := s.state
	var wg sync.WaitGroup
	wg.Go(func() {
		state.Watch(ctx, client, func(string) {
			select {
			case s.drifted <- struct{}{}:
			default:
			}
		})
	})
	s.stopWatch = func() { cancel(); wg.Wait() }
}

// record keeps Helm's record of a chart. The chart is applied all the same when that fails.
func (s *synchronisation) record(ctx context.Context, access *cluster.Access) {
	history := release.DefaultHistory
	if s.unit.chart.MaxHistory != nil {
		history = int(s.unit.chart.GetMaxHistory())
	}
	client, err := access.Client(ctx)
	if err == nil {
		err = release.Record(client, s.decoded.release, s.unit.commit, history)
	}
	if err != nil {
		s.worker.log("warn", "Release record was not written", s.unit.commit, map[string]string{"error": err.Error()})
	}
}
