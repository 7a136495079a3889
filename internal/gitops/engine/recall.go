package engine

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/object/mutation"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/drift"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// place is where an object of a repository goes.
type place struct {
	kind            schema.GroupVersionKind
	namespace, name string
}

func placeOf(u *unstructured.Unstructured) place {
	return place{u.GroupVersionKind(), u.GetNamespace(), u.GetName()}
}

// sums condense the objects of a commit, before anything changes them.
type sums map[place]drift.Sum

// rendered condenses objects together with the inventory that they are marked with. An object whose fields come from other objects while
// it is applied has no sum: what it will be is not known.
func rendered(objects []plan.Object, inventory string) sums {
	all := make(sums, len(objects))
	for _, o := range objects {
		if mutation.HasAnnotation(o.Unstructured) {
			continue
		}
		data, err := json.Marshal(o.Object)
		if err != nil {
			continue
		}
		h := sha256.New()
		_, _ = io.WriteString(h, inventory+"\n") // a hash does not fail
		_, _ = h.Write(data)
		all[placeOf(o.Unstructured)] = drift.Sum(h.Sum(nil))
	}
	return all
}

func (s sums) of(u *unstructured.Unstructured) drift.Sum { return s[placeOf(u)] }

// recall finds out what of a set is in the cluster as the newest successful run of the worker left it, and is to stay so. Nil: nothing
// is known.
func (s *synchronisation) recall(ctx context.Context, access *cluster.Access, r sums) *cluster.Known {
	left := s.worker.left
	if left == nil || s.unit.options.DryRun != common.DryRunNone {
		return nil
	}
	wanted := map[schema.GroupVersionKind]int{}
	for p, sum := range r {
		if left.Sent(p.kind, p.namespace, p.name).Rendered == sum {
			wanted[p.kind]++
		}
	}
	client, err := access.Client(ctx)
	if err != nil || len(wanted) == 0 {
		return nil
	}
	known := &cluster.Known{}
	left.Recall(ctx, client, wanted, func(u *unstructured.Unstructured, sent drift.Sent) {
		if r.of(u) == sent.Rendered {
			known.Add(client.Path(u.GroupVersionKind(), u.GetNamespace(), u.GetName()), u, sent.Request)
		}
	})
	return known
}
