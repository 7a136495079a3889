package inventory

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/apis/actuation"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/cli-utils/pkg/object"
)

// The methods below are what the apply library asks of its inventory. It passes no context: the client's requests end with the run.
var _ inventory.Client = (*Client)(nil)

// GetClusterObjs returns what the inventory holds without what does not carry its mark (any more).
func (c *Client) GetClusterObjs(inventory.Info) (object.ObjMetadataSet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx := context.Background()
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	if err := c.findForeign(ctx); err != nil {
		return nil, err
	}
	return c.ids.Diff(c.foreign), nil
}

// findForeign looks, once per run, for objects to prune that another inventory has taken over, or that nobody has ever applied. The
// library would delete such objects with the policies that adopt.
func (c *Client) findForeign(ctx context.Context) error {
	if c.checked {
		return nil
	}
	var foreign, unknown object.ObjMetadataSet
	for _, id := range c.ids.Diff(c.Set) {
		mapping, err := c.Client.Mapper.RESTMapping(id.GroupKind)
		if meta.IsNoMatchError(err) {
			unknown = append(unknown, id)
			continue
		}
		if err != nil {
			return fmt.Errorf("kinds of the Kubernetes API server: %w", err)
		}
		u, err := c.Client.Dynamic.Resource(mapping.Resource).Namespace(id.Namespace).Get(ctx, id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read what may have to be deleted: %w", err)
		}
		if u.GetAnnotations()[inventory.OwningInventoryKey] != c.Info.id {
			foreign = append(foreign, id)
		}
	}
	c.foreign, c.unknown, c.checked = foreign, unknown, true
	return nil
}

// Merge adds objects that are about to be applied, so that they are known even when the process dies half-way. It returns those that are
// in the inventory only.
func (c *Client) Merge(_ inventory.Info, objs object.ObjMetadataSet, dryRun common.DryRunStrategy) (object.ObjMetadataSet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx := context.Background()
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	prune := c.ids.Diff(objs)
	if dryRun.ClientOrServerDryRun() {
		return prune, nil
	}
	return prune, c.store(ctx, c.ids.Union(objs))
}

// Replace stores what the run leaves. Objects whose apply failed stay, unless the API server has refused it: it may have stored what it
// did not answer. So do those that could not be deleted because the server of their kind was away.
func (c *Client) Replace(_ inventory.Info, objs object.ObjMetadataSet, status []actuation.ObjectStatus, dryRun common.DryRunStrategy) error {
	if dryRun.ClientOrServerDryRun() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx := context.Background()
	if err := c.load(ctx); err != nil {
		return err
	}
	var failed object.ObjMetadataSet
	for _, s := range status {
		if s.Strategy != actuation.ActuationStrategyApply || s.Actuation != actuation.ActuationFailed {
			continue
		}
		if id := inventory.ObjMetadataFromObjectReference(s.ObjectReference); c.Refused == nil || !c.Refused(id) || c.before.Contains(id) {
			failed = append(failed, id)
		}
	}
	keep := objs.Union(failed).Union(c.unknown)
	if c.Retain {
		keep = keep.Union(c.before.Diff(c.Set))
	}
	c.settled = true
	return c.store(ctx, keep)
}

// ApplyInventoryNamespace makes the inventory's namespace when it is part of the set and does not exist.
func (c *Client) ApplyInventoryNamespace(ns *unstructured.Unstructured, dryRun common.DryRunStrategy) error {
	if dryRun.ClientOrServerDryRun() {
		return nil
	}
	ctx := context.Background()
	resource := c.Client.Dynamic.Resource(namespaces)
	_, err := resource.Get(ctx, ns.GetName(), metav1.GetOptions{})
	if err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	_, err = resource.Apply(ctx, ns.GetName(), ns, metav1.ApplyOptions{FieldManager: c.Manager, Force: true})
	return err
}

// errNotUsed is the answer to what the applier never asks.
var errNotUsed = errors.New("the applier does not ask for this")

// DeleteInventoryObj is for the library's destroyer, which the engine does not use.
func (c *Client) DeleteInventoryObj(inventory.Info, common.DryRunStrategy) error { return errNotUsed }

// GetClusterInventoryInfo returns the ConfigMap; nil: there is none.
func (c *Client) GetClusterInventoryInfo(inventory.Info) (*unstructured.Unstructured, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(context.Background()); err != nil {
		return nil, err
	}
	return c.live, nil
}

// GetClusterInventoryObjs returns the ConfigMap, if there is one.
func (c *Client) GetClusterInventoryObjs(i inventory.Info) (object.UnstructuredSet, error) {
	live, err := c.GetClusterInventoryInfo(i)
	if err != nil || live == nil {
		return nil, err
	}
	return object.UnstructuredSet{live}, nil
}

// ListClusterInventoryObjs is for the library's commands, which the engine does not use.
func (c *Client) ListClusterInventoryObjs(context.Context) (map[string]object.ObjMetadataSet, error) {
	return nil, errNotUsed
}
