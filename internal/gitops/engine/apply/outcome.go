package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// Action is what was done with an object.
type Action string

// The actions.
const (
	ActionApply Action = "apply"
	ActionPrune Action = "prune"
)

// State is how an action ended.
type State string

// The states.
const (
	Pending   State = "pending"
	Succeeded State = "succeeded"
	Skipped   State = "skipped"
	Failed    State = "failed"
)

// Result is what happened to one object.
type Result struct {
	ID     object.ObjMetadata
	Source plan.Source
	Action Action
	State  State
	// Status and Message are how far the object is, as computed by kstatus.
	Status  status.Status
	Message string
	// Unchanged: the API server had nothing to change, as far as is known.
	Unchanged bool
	// Problem is why the object failed or was skipped; nil: it is fine, or it stays by its own wish.
	Problem *plan.Problem
}

// Outcome is what a run did.
type Outcome struct {
	Results map[object.ObjMetadata]*Result
	// Err is what went wrong with the run as a whole.
	Err error
	// Problems are what went wrong with objects, in the order it happened.
	Problems plan.Problems
	// Cancelled: the run's context ended. Stopped: a failure ended it.
	Cancelled, Stopped bool
}

func newOutcome(objects []plan.Object) *Outcome {
	out := &Outcome{Results: make(map[object.ObjMetadata]*Result, len(objects))}
	for _, o := range objects {
		id := o.ID()
		out.Results[id] = &Result{ID: id, Source: o.Source, Action: ActionApply, State: Pending, Status: status.UnknownStatus}
	}
	return out
}

// OK says that everything was applied, pruned and found ready.
func (o *Outcome) OK() bool { return o.Err == nil && len(o.Problems) == 0 && !o.Cancelled }

// Reject returns the outcome of a set that was not applied, for problems of its plan.
func Reject(p plan.Plan) *Outcome {
	out := newOutcome(p.Objects)
	out.Add(p.Problems)
	return out
}

// Add takes up what was found wrong before the run.
func (o *Outcome) Add(problems plan.Problems) {
	for _, p := range problems {
		r := o.result(p.ID, ActionApply)
		r.Source, r.State, r.Problem = p.Source, Failed, p
	}
	o.Problems = append(problems, o.Problems...)
}

// result returns the entry of an object, new ones for objects to prune.
func (o *Outcome) result(id object.ObjMetadata, action Action) *Result {
	r, ok := o.Results[id]
	if !ok {
		r = &Result{ID: id, Action: action, State: Pending, Status: status.UnknownStatus}
		o.Results[id] = r
	}
	return r
}

// problem notes what is wrong with an object.
func (o *Outcome) problem(r *Result, reason string, user bool) {
	p := &plan.Problem{Source: r.Source, ID: r.ID, Reason: plan.Redact(r.ID, reason), User: user}
	r.Problem = p
	o.Problems = append(o.Problems, p)
}

// finish notes how the run ended, after its last event.
func (o *Outcome) finish(ctx context.Context, cause error) {
	o.Cancelled = ctx.Err() != nil
	o.Stopped = errors.Is(cause, errStopped)
	if o.Stopped || o.Cancelled {
		o.Err = nil
	}
}

// tried returns the objects that the run has applied, or may have.
func (o *Outcome) tried(refused func(object.ObjMetadata) bool) object.ObjMetadataSet {
	var ids object.ObjMetadataSet
	for id, r := range o.Results {
		if r.Action == ActionApply && (r.State == Succeeded || r.State == Failed && !refused(id)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// byUser says that the API server's refusal of an object is a matter of its content. For fields of the wrong type it answers that it is
// itself to blame.
func byUser(status int, reason string) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return true
	case http.StatusInternalServerError:
		return strings.Contains(reason, "failed to create typed patch object") || strings.Contains(reason, "failed to convert new object")
	}
	return false
}

// Error is what went wrong; nil: nothing did, or the run was cancelled. When only objects are to blame it is plan.Problems.
func (o *Outcome) Error() error {
	switch {
	case o.Cancelled || o.OK():
		return nil
	case o.Err == nil:
		return o.Problems
	case len(o.Problems) == 0:
		return o.Err
	}
	return fmt.Errorf("%w; %s", o.Err, o.Problems)
}
