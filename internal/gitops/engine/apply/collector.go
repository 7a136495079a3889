package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/cli-utils/pkg/apply/event"
	"sigs.k8s.io/cli-utils/pkg/apply/filter"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/cli-utils/pkg/object"
	"sigs.k8s.io/cli-utils/pkg/object/validation"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	own "gitlab.com/agentk/agentk/internal/gitops/engine/inventory"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// collector turns the library's events into the outcome, and the answers to applies into statuses for the waiter.
type collector struct {
	ctx     context.Context // that of the run's caller
	out     *Outcome
	client  *cluster.Client
	waiter  *waiter
	options Options
	stop    func()
	made    made
	stopped bool
	cut     bool // a request failed because ctx ended
}

func (c *collector) event(e event.Event) {
	switch e.Type {
	case event.ErrorType:
		c.failed(e.ErrorEvent.Err)
	case event.ValidationType:
		c.invalid(e.ValidationEvent.Identifiers, e.ValidationEvent.Error)
	case event.ApplyType:
		c.applied(e.ApplyEvent)
	case event.PruneType:
		c.pruned(e.PruneEvent)
	case event.WaitType:
		c.waited(e.WaitEvent)
	case event.StatusType:
		c.status(e.StatusEvent)
	case event.ActionGroupType:
		if e.ActionGroupEvent.Action == event.WaitAction && e.ActionGroupEvent.Status == event.Finished && len(c.out.Problems) > 0 {
			c.stopAfter()
		}
	}
}

// failed takes an error of the whole run. Validation names objects inside it.
func (c *collector) failed(err error) {
	var many interface{ Errors() []error }
	if errors.As(err, &many) {
		for _, one := range many.Errors() {
			c.failed(one)
		}
		return
	}
	var invalid *validation.Error
	if errors.As(err, &invalid) {
		c.invalid(invalid.Identifiers(), invalid)
		return
	}
	c.out.Err = errors.Join(c.out.Err, err)
}

// invalid takes objects that the library refuses before anything is sent.
func (c *collector) invalid(ids object.ObjMetadataSet, err error) {
	reason := err
	var v *validation.Error
	if errors.As(err, &v) {
		reason = v.Unwrap()
	}
	for _, id := range ids {
		r := c.out.result(id, ActionApply)
		r.State = Failed
		c.out.problem(r, reason.Error(), true)
		c.progress(r)
	}
}

func (c *collector) applied(e event.ApplyEvent) {
	if e.Status == event.ApplyPending {
		return
	}
	r := c.out.result(e.Identifier, ActionApply)
	switch e.Status {
	case event.ApplySuccessful:
		r.State = Succeeded
		r.Status, r.Message = compute(e.Resource)
		if c.options.Applied != nil {
			r.Unchanged = c.options.Applied(e.Resource, c.client.Applied(e.Resource))
		}
		if c.options.DryRun == common.DryRunNone {
			c.waiter.applied(e.Identifier, e.Resource)
		}
	case event.ApplySkipped:
		r.State = Skipped
		c.out.problem(r, skipReason(e.Error), isPolicy(e.Error))
		c.stopAfter()
	case event.ApplyFailed:
		status := c.client.TakePatchStatus()
		if c.cutOff(r) {
			return
		}
		if c.options.DryRun != common.DryRunNone && c.made.holds(r.ID) {
			r.State, r.Message = Skipped, "cannot be tried before its namespace and kind exist, which the same commit makes"
			break
		}
		r.State = Failed
		reason := applyReason(e.Error)
		c.out.problem(r, reason, byUser(status, reason))
		c.stopAfter()
	}
	c.progress(r)
}

// cutOff says that a request failed only because the run is at its end. The first one cut off by the caller may have been under way: the
// API server may have stored it, so it counts as failed and stays in the inventory.
func (c *collector) cutOff(r *Result) bool {
	if c.stopped {
		return true
	}
	if c.ctx.Err() == nil {
		return false
	}
	if !c.cut {
		c.cut = true
		r.State = Failed
	}
	return true
}

// stopAfter ends the run after a failure unless it is to keep going.
func (c *collector) stopAfter() {
	if !c.options.KeepGoing && !c.stopped {
		c.stopped = true
		c.stop()
	}
}

func (c *collector) pruned(e event.PruneEvent) {
	if e.Status == event.PrunePending {
		return
	}
	r := c.out.result(e.Identifier, ActionPrune)
	switch e.Status {
	case event.PruneSuccessful:
		r.State = Succeeded
		if c.options.DryRun == common.DryRunNone {
			c.waiter.pruned(e.Identifier, e.Object)
		}
	case event.PruneSkipped:
		r.State, r.Message = Skipped, skipReason(e.Error)
	case event.PruneFailed:
		if c.cutOff(r) {
			return
		}
		r.State = Failed
		c.out.problem(r, "delete: "+e.Error.Error(), false)
	}
	c.progress(r)
}

func (c *collector) waited(e event.WaitEvent) {
	r := c.out.result(e.Identifier, ActionApply)
	switch e.Status {
	case event.ReconcileTimeout:
		what := fmt.Sprintf("is not ready after %s", c.options.ReconcileTimeout)
		if r.Action == ActionPrune {
			what = fmt.Sprintf("is not gone after %s", c.options.PruneTimeout)
		}
		c.out.problem(r, withMessage(what, r), false)
	case event.ReconcileFailed:
		c.out.problem(r, withMessage("failed", r), false)
	case event.ReconcileSuccessful:
		c.mended(r)
	default:
		return
	}
	c.progress(r)
}

// mended takes back that an object failed to become ready.
func (c *collector) mended(r *Result) {
	if r.Problem == nil || r.State != Succeeded || c.stopped {
		return
	}
	for i, p := range c.out.Problems {
		if p == r.Problem {
			c.out.Problems = append(c.out.Problems[:i], c.out.Problems[i+1:]...)
			break
		}
	}
	r.Problem = nil
}

func withMessage(what string, r *Result) string {
	if r.Message == "" {
		return what
	}
	return what + ": " + r.Message
}

func (c *collector) status(e event.StatusEvent) {
	if e.PollResourceInfo == nil {
		return
	}
	r, ok := c.out.Results[e.Identifier]
	if !ok || r.State != Succeeded {
		return
	}
	r.Status, r.Message = e.PollResourceInfo.Status, e.PollResourceInfo.Message
	c.progress(r)
}

func (c *collector) progress(r *Result) {
	if c.options.Progress != nil {
		c.options.Progress(r)
	}
}

// isPolicy says that the inventory policy keeps the run away from an object.
func isPolicy(err error) bool {
	var policy *inventory.PolicyPreventedActuationError
	return errors.As(err, &policy)
}

// skipReason says in words why the library left an object alone.
func skipReason(err error) string {
	var keep *filter.AnnotationPreventedDeletionError
	var namespace *filter.NamespaceInUseError
	var dependency *filter.DependencyPreventedActuationError
	switch {
	case isPolicy(err):
		return own.Refusal(err)
	case errors.As(err, &keep):
		return "kept: annotation " + keep.Annotation + ": " + keep.Value
	case errors.As(err, &namespace):
		return "the namespace still holds objects of the repository"
	case errors.As(err, &dependency):
		return "waits for " + plan.Name(dependency.Relation) + ", which failed or is not ready"
	case err == nil:
		return "skipped"
	}
	return err.Error()
}

// applyReason drops the words that the libraries put before the API server's.
func applyReason(err error) string {
	reason := err.Error()
	for _, prefix := range []string{"failed to apply: ", "unknown type: "} {
		reason = strings.TrimPrefix(reason, prefix)
	}
	return reason
}
