package engine

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/apply"
	"gitlab.com/agentk/agentk/internal/gitops/engine/diff"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
	"gitlab.com/agentk/agentk/internal/gitops/render"
)

// diff reports what applying the job would change.
func (s *synchronisation) diff(ctx context.Context) {
	begun := time.Now()
	report := &engine.Finished{CommitId: s.unit.commit}
	err := s.compare(ctx, report)
	if s.decoded != nil && len(s.decoded.need) > 0 {
		return
	}
	if err != nil {
		report.Error, report.UserError = err.Error(), isUserError(err)
	}
	report.Cancelled = ctx.Err() != nil
	report.Duration = durationpb.New(time.Since(begun))
	s.worker.finished(report)
}

func (s *synchronisation) compare(ctx context.Context, report *engine.Finished) error {
	access, err := s.worker.engine.cluster.As(s.unit.account)
	if err != nil {
		return &render.UserError{Reason: err.Error()}
	}
	if err := s.decode(ctx, access); err != nil || len(s.decoded.need) > 0 {
		return err
	}
	objects, err := unpack(s.decoded.objects)
	if err != nil {
		return err
	}
	p, err := plan.Make(objects, access.Mapper, s.unit.namespace)
	if err != nil {
		return err
	}
	client, err := access.Client(ctx)
	if err != nil {
		return err
	}
	err = diff.Compare(ctx, diff.Config{
		Client: client, Info: s.inventory(p), Policy: s.unit.options.Policy, Manager: apply.Manager,
		NoPrune: s.unit.options.NoPrune || len(p.Problems) > 0,
	}, p.Objects, func(d *engine.Diff) {
		countDiff(report, d)
		d.Worker = s.worker.name
		s.worker.engine.send.message(&engine.FromEngine{Message: &engine.FromEngine_Diff{Diff: d}})
	})
	if err == nil && len(p.Problems) > 0 {
		return p.Problems
	}
	return err
}

func countDiff(report *engine.Finished, d *engine.Diff) {
	switch d.GetAction() {
	case engine.Diff_PRUNE:
		report.Pruned++
	case engine.Diff_REFUSED:
		report.Failed++
	default:
		report.Applied++
	}
}
