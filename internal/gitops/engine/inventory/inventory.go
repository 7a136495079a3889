// Package inventory keeps, in a ConfigMap of the cluster, which objects a synchronisation unit has applied, in the form of the apply
// library, so that other tools of that library read it. The library's own client would read it five times per run, forget its errors in
// one place, and let go of objects whose apply failed half-way: an object whose creation was stored but not answered would be lost.
package inventory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/common"
	"sigs.k8s.io/cli-utils/pkg/inventory"
	"sigs.k8s.io/cli-utils/pkg/object"

	"gitlab.com/agentk/agentk/internal/gitops/engine/cluster"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// Info names an inventory. It is what the apply library knows of it.
type Info struct {
	namespace, name, id string
	template            *unstructured.Unstructured
}

// Default is the inventory of a unit that brings none: the ConfigMap inventory-<id> in that namespace.
func Default(namespace, id string) Info {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
	u.SetNamespace(namespace)
	u.SetName("inventory-" + id)
	u.SetLabels(map[string]string{common.InventoryLabel: id})
	return FromObject(u)
}

// FromObject is the inventory that a repository brings itself: a ConfigMap with the inventory label.
func FromObject(u *unstructured.Unstructured) Info {
	template := u.DeepCopy()
	unstructured.RemoveNestedField(template.Object, "data")
	return Info{namespace: u.GetNamespace(), name: u.GetName(), id: u.GetLabels()[common.InventoryLabel], template: template}
}

// Namespace is that of the ConfigMap.
func (i Info) Namespace() string { return i.namespace }

// Name is that of the ConfigMap when it is made; an existing one is found by its label.
func (i Info) Name() string { return i.name }

// ID is the value of the label, and of the owner annotation of each applied object.
func (i Info) ID() string { return i.id }

// Strategy is how an existing ConfigMap is found.
func (i Info) Strategy() inventory.Strategy { return inventory.LabelStrategy }

// Client reads and writes one inventory during one run. It implements the apply library's client.
type Client struct {
	Config

	mu      sync.Mutex // guards all below, and Client
	read    bool
	live    *unstructured.Unstructured // nil: there is none
	ids     object.ObjMetadataSet      // what live holds
	before  object.ObjMetadataSet      // what it held before the run
	settled bool                       // Replace has run
	checked bool                       // foreign is known
	foreign object.ObjMetadataSet      // objects in ids that belong to others
	unknown object.ObjMetadataSet      // objects in ids of kinds that the API server does not serve, perhaps only just now
}

// Config says what a Client works on.
type Config struct {
	Info Info
	// Client reaches the API server; its requests end with the run.
	Client *cluster.Client
	// Manager is the field manager of what is written.
	Manager string
	// Set is what the run applies.
	Set object.ObjMetadataSet
	// Retain keeps objects in the inventory that are not in Set: the set is known to be incomplete.
	Retain bool
	// Refused says of an object of Set whose apply failed that nothing of it was stored. An account that may not touch it could never
	// get rid of it again if it was in the inventory. Nil: of none.
	Refused func(object.ObjMetadata) bool
}

// New returns the client of a run.
func New(config Config) *Client { return &Client{Config: config} }

// IDs returns what the inventory holds now.
func (c *Client) IDs(ctx context.Context) (object.ObjMetadataSet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(ctx); err != nil {
		return nil, err
	}
	return slices.Clone(c.ids), nil
}

// load reads the ConfigMap once per run.
func (c *Client) load(ctx context.Context) error {
	if c.read {
		return nil
	}
	list, err := c.Client.Dynamic.Resource(configMaps).Namespace(c.Info.namespace).
		List(ctx, metav1.ListOptions{LabelSelector: common.InventoryLabel + "=" + c.Info.id})
	if err != nil {
		return fmt.Errorf("read inventory %s: %w", c.title(), err)
	}
	if len(list.Items) > 1 {
		return fmt.Errorf("%d ConfigMaps in namespace %s have the label %s=%s; there can be one",
			len(list.Items), c.Info.namespace, common.InventoryLabel, c.Info.id)
	}
	c.live, c.ids = nil, nil
	if len(list.Items) == 1 {
		c.live = &list.Items[0]
		if c.ids, err = parse(c.live); err != nil {
			return fmt.Errorf("inventory %s: %w", c.title(), err)
		}
	}
	c.read = true
	c.before = slices.Clone(c.ids)
	return nil
}

func parse(u *unstructured.Unstructured) (object.ObjMetadataSet, error) {
	data, _, err := unstructured.NestedMap(u.Object, "data")
	if err != nil {
		return nil, err
	}
	ids := make(object.ObjMetadataSet, 0, len(data))
	for _, key := range slices.Sorted(maps.Keys(data)) {
		id, err := object.ParseObjMetadata(key)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (c *Client) title() string { return c.Info.namespace + "/" + c.Info.name }

// store writes ids unless the ConfigMap holds them already.
func (c *Client) store(ctx context.Context, ids object.ObjMetadataSet) error {
	if c.live != nil && sameSet(c.ids, ids) {
		return nil
	}
	u := c.Info.template.DeepCopy()
	if c.live != nil {
		u = c.live.DeepCopy()
	}
	data := make(map[string]any, len(ids))
	for _, id := range ids {
		data[id.String()] = ""
	}
	if err := unstructured.SetNestedMap(u.Object, data, "data"); err != nil {
		return err
	}
	resource := c.Client.Dynamic.Resource(configMaps).Namespace(c.Info.namespace)
	var stored *unstructured.Unstructured
	var err error
	if c.live == nil {
		stored, err = resource.Create(ctx, u, metav1.CreateOptions{FieldManager: c.Manager})
	} else {
		stored, err = resource.Update(ctx, u, metav1.UpdateOptions{FieldManager: c.Manager})
	}
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ConfigMap %s exists but does not have the label %s=%s: it is not this inventory",
			c.title(), common.InventoryLabel, c.Info.id)
	}
	if err != nil {
		return fmt.Errorf("write inventory %s: %w", c.title(), err)
	}
	c.live, c.ids = stored, ids
	return nil
}

func sameSet(a, b object.ObjMetadataSet) bool {
	if len(a) != len(b) {
		return false
	}
	set := make(map[object.ObjMetadata]struct{}, len(a))
	for _, id := range a {
		set[id] = struct{}{}
	}
	for _, id := range b {
		if _, ok := set[id]; !ok {
			return false
		}
	}
	return true
}

// Settle writes what a run that was stopped half-way leaves: what the inventory held before and what the run tried to apply. A run that
// came to its end has settled already.
func (c *Client) Settle(ctx context.Context, tried object.ObjMetadataSet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.read || c.settled || c.live == nil {
		return nil
	}
	return c.store(ctx, c.before.Union(tried))
}

// Rebind makes the client use another way to the API server, for Settle after the run's own has ended.
func (c *Client) Rebind(client *cluster.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Client = client
}
