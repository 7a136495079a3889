// Package apply brings a planned set into the cluster with the upstream apply library: server-side apply, dependencies, pruning, waiting.
// It adds what the library lacks: a run can be cut off at any request, stops at the first failure if asked to, waits without watching
// everything, and reports one result per object.
package apply

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/apply"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/cli-utils/pkg/object"
	"sigs.k8s.io/cli-utils/pkg/object/validation"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	own "gitlab.com/agentk/agentk/internal/gitops/engine/inventory"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// Manager is the field manager of everything that is applied.
const Manager = "agentk"

// settleTimeout bounds the writing of the inventory after a run was cut off.
const settleTimeout = 10 * time.Second

// crdTimeout bounds the wait for definitions when nothing else is waited for: their resources need it.
const crdTimeout = time.Minute

// Options say how a set is applied.
type Options struct {
	DryRun  common.DryRunStrategy
	NoPrune bool
	// Incomplete: objects are missing because they could not be read. Nothing is pruned, and the inventory lets go of nothing.
	Incomplete  bool
	Propagation metav1.DeletionPropagation
	Policy      inventory.Policy
	// ReconcileTimeout and PruneTimeout bound the waits; zero: no wait.
	ReconcileTimeout, PruneTimeout time.Duration
	// KeepGoing applies what does not depend on a failed object; otherwise the first failure ends the run and nothing is pruned.
	KeepGoing bool
	// Known is what of the cluster need not be asked again. Nil: everything is. A dry run must not have any.
	Known *cluster.Known
	// Applied gets the API server's answer to each apply, and what cluster.Client.Applied says of it, and says whether it changed
	// nothing. It must not keep the object. May be nil.
	Applied func(u *unstructured.Unstructured, request [sha256.Size]byte) bool
	// Progress is told about each result that is new or different, by the calling goroutine. May be nil.
	Progress func(*Result)
}

// errStopped is the cause of requests cut off after a failure.
var errStopped = errors.New("not tried: the run stopped at the first failure")

// Run applies objects. The outcome is complete also when ctx ends; then it says so. The objects are changed.
func Run(ctx context.Context, access *cluster.Access, info own.Info, objects []plan.Object, o Options) *Outcome {
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := newOutcome(objects)
	client, err := access.Client(runCtx)
	if err != nil {
		out.Err = err
		return out
	}
	client.Recall(o.Known)
	set := make(object.UnstructuredSet, len(objects))
	kinds := make(map[object.ObjMetadata]schema.GroupVersionKind, len(objects))
	for i, o := range objects {
		set[i] = o.Unstructured
		kinds[o.ID()] = o.GroupVersionKind()
	}
	inv := own.New(own.Config{
		Info: info, Client: client, Manager: Manager, Set: object.UnstructuredSetToObjMetadataSet(set), Retain: o.Incomplete,
		Refused: func(id object.ObjMetadata) bool { return refused(client, kinds, id) },
	})
	w := newWaiter(client)
	w.noWaitApply, w.noWaitPrune = o.ReconcileTimeout == 0, o.PruneTimeout == 0
	applier, err := apply.NewApplierBuilder().
		WithInventoryClient(inv).
		WithDynamicClient(client.Dynamic).
		WithDiscoveryClient(access.Discovery).
		WithRestMapper(access.Mapper).
		WithRestConfig(first(client.Config())).
		WithUnstructuredClientForMapping(client.ForMapping).
		WithStatusWatcher(w).
		Build()
	if err != nil {
		out.Err = fmt.Errorf("set up the applier: %w", err)
		return out
	}
	c := &collector{ctx: ctx, out: out, client: client, waiter: w, options: o, made: madeBy(objects), stop: func() { cancel(errStopped) }}
	for e := range applier.Run(runCtx, info, set, libraryOptions(o)) {
		c.event(e)
	}
	out.finish(ctx, context.Cause(runCtx))
	if o.DryRun == common.DryRunNone && (out.Cancelled || out.Stopped) {
		settle(ctx, access, inv, out.tried(func(id object.ObjMetadata) bool { return refused(client, kinds, id) }), out)
	}
	return out
}

// refused says that nothing of an object of the set whose apply failed can be in the cluster: it was not sent, or not taken.
func refused(client *cluster.Client, kinds map[object.ObjMetadata]schema.GroupVersionKind, id object.ObjMetadata) bool {
	kind, ok := kinds[id]
	return ok && !client.Stored(kind, id.Namespace, id.Name)
}

func first[A, B any](a A, _ B) A { return a }

func libraryOptions(o Options) apply.ApplierOptions {
	lib := apply.ApplierOptions{
		ServerSideOptions: common.ServerSideOptions{
			// The library would send real applies in a client-side dry run if this was set.
			ServerSideApply: o.DryRun != common.DryRunClient,
			ForceConflicts:  true,
			FieldManager:    Manager,
		},
		ReconcileTimeout:       o.ReconcileTimeout,
		EmitStatusEvents:       true,
		NoPrune:                o.NoPrune || o.Incomplete,
		DryRunStrategy:         o.DryRun,
		PrunePropagationPolicy: o.Propagation,
		PruneTimeout:           o.PruneTimeout,
		InventoryPolicy:        o.Policy,
		ValidationPolicy:       validation.ExitEarly,
	}
	if o.KeepGoing {
		lib.ValidationPolicy = validation.SkipInvalid
	}
	if lib.ReconcileTimeout == 0 {
		lib.ReconcileTimeout = crdTimeout
	}
	if lib.PruneTimeout == 0 {
		lib.PruneTimeout = crdTimeout
	}
	return lib
}

// settle leaves a truthful inventory behind a run that was cut off: without it, objects that were never applied would stay in it, and a
// later run would prune foreign objects of those names.
func settle(ctx context.Context, access *cluster.Access, inv *own.Client, tried object.ObjMetadataSet, out *Outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	client, err := access.Client(ctx)
	if err != nil {
		return
	}
	inv.Rebind(client)
	if err := inv.Settle(ctx, tried); err != nil && out.Err == nil && !out.Cancelled {
		out.Err = err
	}
}
