// Package diff says what applying a set would change, object by object. It asks the API server, which knows about defaults, conversions
// and admission, with dry-run requests, and writes nothing.
package diff

import (
	"context"
	"crypto/rand"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/common"
	inv "sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/api/engine"
	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
	"gitlab.com/agentk/agentk/internal/gitops/engine/inventory"
	"gitlab.com/agentk/agentk/internal/gitops/engine/plan"
)

// Config says what is compared.
type Config struct {
	Client  *cluster.Client
	Info    inventory.Info
	Policy  inv.Policy
	Manager string
	NoPrune bool
}

// Compare calls found for every object that applying would change, prune or be refused for. It stops at an error of the way to the API
// server, not at objects that the API server refuses.
func Compare(ctx context.Context, c Config, objects []plan.Object, found func(*engine.Diff)) error {
	r := redactor{key: make([]byte, 32)}
	if _, err := rand.Read(r.key); err != nil {
		return err
	}
	for _, o := range objects {
		d, err := c.object(ctx, r, o)
		if err != nil {
			return err
		}
		if d != nil {
			d.Object, d.File, d.Line = plan.Name(o.ID()), o.Source.File, int32(o.Source.Line)
			found(d)
		}
	}
	if c.NoPrune {
		return nil
	}
	return c.prune(ctx, objects, found)
}

func refused(o plan.Object, err error) (*engine.Diff, error) {
	return &engine.Diff{Action: engine.Diff_REFUSED, Text: plan.Redact(o.ID(), err.Error())}, nil
}

// object compares one; nil: nothing would change.
func (c Config) object(ctx context.Context, r redactor, o plan.Object) (*engine.Diff, error) {
	inv.AddInventoryIDAnnotation(o.Unstructured, c.Info)
	resource, err := c.Client.Resource(o.GroupVersionKind(), o.GetNamespace())
	if meta.IsNoMatchError(err) {
		// Its definition is part of the set.
		return c.created(r, o.Unstructured)
	}
	if err != nil {
		return nil, err
	}
	live, err := resource.Get(ctx, o.GetName(), metav1.GetOptions{})
	action := engine.Diff_CHANGE
	switch {
	case apierrors.IsNotFound(err):
		live, action = nil, engine.Diff_CREATE
	case err != nil && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		return nil, fmt.Errorf("read %s: %w", plan.Name(o.ID()), err)
	case err != nil:
		return refused(o, err)
	default:
		if _, err := inv.CanApply(c.Info, live, c.Policy); err != nil {
			return &engine.Diff{Action: engine.Diff_REFUSED, Text: inventory.Refusal(err)}, nil
		}
	}
	wanted, err := resource.Apply(ctx, o.GetName(), o.Unstructured, metav1.ApplyOptions{
		FieldManager: c.Manager, Force: true, DryRun: []string{metav1.DryRunAll},
	})
	switch {
	case live == nil && apierrors.IsNotFound(err):
		// Its namespace does not exist yet.
		return c.created(r, o.Unstructured)
	case err != nil && apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		return nil, fmt.Errorf("try %s: %w", plan.Name(o.ID()), err)
	case err != nil:
		return refused(o, err)
	}
	text, err := r.unified(live, wanted)
	if err != nil || text == "" {
		return nil, err
	}
	return &engine.Diff{Action: action, Text: text}, nil
}

// created shows an object that the API server could not be asked about.
func (c Config) created(r redactor, u *unstructured.Unstructured) (*engine.Diff, error) {
	text, err := r.unified(nil, u)
	if err != nil {
		return nil, err
	}
	return &engine.Diff{Action: engine.Diff_CREATE, Text: text}, nil
}

// prune reports what is in the inventory and not in the set.
func (c Config) prune(ctx context.Context, objects []plan.Object, found func(*engine.Diff)) error {
	set := make(object.ObjMetadataSet, len(objects))
	for i, o := range objects {
		set[i] = o.ID()
	}
	client := inventory.New(inventory.Config{Info: c.Info, Client: c.Client, Manager: c.Manager, Set: set})
	ids, err := client.GetClusterObjs(c.Info)
	if err != nil {
		return err
	}
	for _, id := range ids.Diff(set) {
		mapping, err := c.Client.Mapper.RESTMapping(id.GroupKind)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return err
		}
		live, err := c.Client.Dynamic.Resource(mapping.Resource).Namespace(id.Namespace).Get(ctx, id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if !kept(live) {
			found(&engine.Diff{Action: engine.Diff_PRUNE, Object: plan.Name(id)})
		}
	}
	return nil
}

// kept says that the object asks to stay.
func kept(u *unstructured.Unstructured) bool {
	for name, value := range u.GetAnnotations() {
		if common.NoDeletion(name, value) {
			return true
		}
	}
	return false
}
